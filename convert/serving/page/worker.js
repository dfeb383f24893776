// The model, beside the page's own thread: loads one at a time, reads a prompt, writes tokens.
//
// in:  {output, dtype, device, prompt, count, image: {data, width, height} or null} or {stop: true}
// out: {progress}, {loaded}, {text}, and at the end {done} or {problem}

import {
  env, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, InterruptableStoppingCriteria,
  RawImage, TextStreamer,
} from "/package/@huggingface/transformers/dist/transformers.min.js";

Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: "/models/" });
Object.assign(env, { useBrowserCache: false, useWasmCache: false }); // a run may write another model under the same name
env.backends.onnx.wasm.wasmPaths = new URL("/package/onnxruntime-web/dist/", self.location.origin).href;

const stopping = new InterruptableStoppingCriteria();
let held = null; // {key, model, tokenizer, processor}

async function load({ output, dtype, device }) {
  const key = JSON.stringify([output.name, dtype, device]);
  if (held?.key === key) return held;
  await held?.model.dispose();
  held = null;
  const totals = new Map();
  const progress_callback = ({ status, file, loaded, total }) => {
    if (status !== "progress" || !total) return;
    totals.set(file, [loaded, total]);
    const sum = (place) => [...totals.values()].reduce((all, each) => all + each[place], 0);
    postMessage({ progress: { loaded: sum(0), total: Math.max(sum(1), output.dtypes[dtype].bytes) } });
  };
  const tokenizer = await AutoTokenizer.from_pretrained(output.name);
  const processor = output.images ? await AutoProcessor.from_pretrained(output.name) : null;
  const auto = output.images ? AutoModelForImageTextToText : AutoModelForCausalLM;
  const model = await auto.from_pretrained(output.name, { dtype, device, progress_callback });
  held = { key, model, tokenizer, processor };
  return held;
}

function rendered(tokenizer, prompt, image) {
  if (!tokenizer.chat_template) return prompt;
  const content = image ? [{ type: "image" }, { type: "text", text: prompt }] : prompt;
  const words = { tokenize: false, add_generation_prompt: true };
  return tokenizer.apply_chat_template([{ role: "user", content }], words);
}

// Inputs, and the size that the image has for the model, in whose pixels its answers count.
async function read({ tokenizer, processor }, { prompt, image }) {
  const text = rendered(tokenizer, prompt, image);
  if (!image) return [await tokenizer(text, { add_special_tokens: !tokenizer.chat_template }), null];
  const inputs = await processor(text, new RawImage(image.data, image.width, image.height, 4).rgb());
  const [, rows, columns] = inputs.image_grid_thw?.tolist()[0].map(Number) ?? [];
  const patch = processor.image_processor.config.patch_size;
  return [inputs, rows ? { width: columns * patch, height: rows * patch } : { width: image.width, height: image.height }];
}

async function answer(asked) {
  stopping.reset();
  const { model, tokenizer, processor } = await load(asked);
  postMessage({ loaded: true });
  const [inputs, size] = await read({ tokenizer, processor }, asked);
  const start = performance.now();
  const times = [];
  const streamer = new TextStreamer(tokenizer, {
    skip_prompt: true,
    skip_special_tokens: true,
    callback_function: (text) => postMessage({ text }),
    token_callback_function: () => times.push(performance.now()),
  });
  await model.generate({ ...inputs, max_new_tokens: asked.count, do_sample: false, streamer, stopping_criteria: stopping });
  const [first, last] = [times[0] ?? performance.now(), times.at(-1) ?? performance.now()];
  postMessage({
    done: {
      size,
      prompt: inputs.input_ids.dims.at(-1),
      tokens: times.length,
      firstSeconds: (first - start) / 1000,
      seconds: (last - first) / 1000,
    },
  });
}

let turn = Promise.resolve();
self.onmessage = ({ data }) => {
  if (data.stop) return stopping.interrupt();
  turn = turn.then(() => answer(data)).catch((error) => postMessage({ problem: String(error?.message ?? error) }));
};
