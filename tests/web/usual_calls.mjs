// What a user of transformers.js writes, for every question of a list: node usual_calls.mjs LIBRARY MODELS QUESTIONS

const [library, models, questions] = process.argv.slice(2);
const { env, pipeline, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, RawImage } = await import(library);
env.allowRemoteModels = false;
env.localModelPath = models;

async function text({ model: name, dtype, prompt, count }) {
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  const model = await AutoModelForCausalLM.from_pretrained(name, { dtype });
  const inputs = await tokenizer(prompt);
  return [await model.generate({ ...inputs, max_new_tokens: count, do_sample: false }), inputs];
}

async function image({ model: name, dtype, prompt, image, count }) {
  const processor = await AutoProcessor.from_pretrained(name);
  const model = await AutoModelForImageTextToText.from_pretrained(name, { dtype });
  const content = [{ type: "image" }, { type: "text", text: prompt }];
  const rendered = processor.apply_chat_template([{ role: "user", content }], { add_generation_prompt: true });
  const inputs = await processor(rendered, await RawImage.read(image));
  return [await model.generate({ ...inputs, max_new_tokens: count, do_sample: false }), inputs];
}

async function piped({ model: name, dtype, prompt, count }) {
  const generate = await pipeline("text-generation", name, { dtype });
  const [{ generated_text }] = await generate(prompt, { max_new_tokens: count, do_sample: false });
  return generated_text;
}

const answers = [];
for (const { kind, ...asked } of JSON.parse(questions)) {
  if (kind === "pipeline") {
    answers.push(await piped(asked));
  } else {
    const [made, inputs] = await (kind === "image" ? image : text)(asked);
    answers.push(made.tolist()[0].slice(inputs.input_ids.dims[1]).map(Number));
  }
}
process.stdout.write(JSON.stringify(answers));
