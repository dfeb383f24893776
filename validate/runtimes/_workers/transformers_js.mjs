// transformers.js, asked over pipes: `node transformers_js.mjs`. The protocol is docs/extend/runtime-elsewhere.md.
//
// Whatever a user of transformers.js would call is called here, so that what it says of a folder is what they get.

import { existsSync, readFileSync, writeSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const PROTOCOL = 1;
const FOLDER = "onnx"; // of the graphs, in the hub's layout
const STEMS = ["decoder_model_merged", "model"]; // what a file that gives logits is called before its suffix
const DTYPES = { "": "fp32", _fp16: "fp16", _quantized: "q8", _int8: "int8", _q4: "q4", _q4f16: "q4f16", _bnb4: "bnb4" };
const PLAIN = { do_sample: false, repetition_penalty: 1, no_repeat_ngram_size: 0 }; // the model's own choice, as it is
for (const name of ["log", "info", "debug"]) console[name] = console.error; // the standard output is the protocol's

class Refused extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

let library, model, tokenizer, vocabulary;
let literal; // the same tokenizer, told of no special tokens: transformers.js reads each that it finds in a text

const packageOf = (folder, name) => path.join(folder, "node_modules", name);
const versionOf = (folder, name) => JSON.parse(readFileSync(path.join(packageOf(folder, name), "package.json"))).version;

const WRITES = /(ForCausalLM|LMHeadModel|ForConditionalGeneration)$/; // classes whose logits are asked for here

function placeOf(file) {
  const folder = path.dirname(file);
  const beside = existsSync(path.join(folder, "config.json"));
  const home = path.basename(folder) === FOLDER && !beside ? path.dirname(folder) : folder;
  const stem = STEMS.find((name) => path.basename(file).startsWith(name));
  const suffix = stem === undefined ? undefined : path.basename(file, ".onnx").slice(stem.length);
  if (!(suffix in DTYPES)) {
    const known = Object.keys(DTYPES).map((each) => `model${each}.onnx`).join(", ");
    throw new Refused("not_on_this_machine", `transformers.js has no dtype for a file called ${path.basename(file)}; wanted ${known}`);
  }
  const [name = "ForCausalLM"] = JSON.parse(readFileSync(path.join(home, "config.json"))).architectures ?? [];
  if (!WRITES.test(name) || (stem !== "model" && !existsSync(path.join(folder, `embed_tokens${suffix}.onnx`)))) {
    throw new Refused("not_on_this_machine", `this runtime measures what models write, and ${name} is asked otherwise`);
  }
  return { home, stem, dtype: DTYPES[suffix], subfolder: home === folder ? "" : FOLDER };
}

const ids = (tokens) => new library.Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, tokens.length]);
const asked = (tokens) => ({ input_ids: ids(tokens), attention_mask: ids(tokens.map(() => 1)) });
const array = (rows, count) => ({ array: rows, shape: [count, vocabulary] });

function checked(tokens) {
  const wrong = tokens.find((token) => !(token >= 0 && token < vocabulary));
  if (!tokens.length || wrong !== undefined) {
    throw new Refused("failed", tokens.length ? `token id ${wrong} is outside of a vocabulary of ${vocabulary}` : "no tokens");
  }
  return tokens;
}

async function read(tokens) {
  const { logits } = await model(asked(tokens));
  return logits.to("float32");
}

// A processor of logits that keeps each step's and makes the next of `tokens` the likeliest.
function forcing(tokens, kept) {
  class Forced extends library.LogitsProcessor {
    _call(sofar, logits) {
      kept.push(Float32Array.from(logits.data));
      logits.data.fill(-Infinity);
      logits.data[tokens[sofar[0].length] ?? 0] = 0;
      return logits;
    }
  }
  const list = new library.LogitsProcessorList();
  list.push(new Forced());
  return list;
}

const methods = {
  hello({ options }) {
    const { folder } = options;
    const versions = {};
    for (const name of ["@huggingface/transformers", "onnxruntime-node"]) versions[name] = versionOf(folder, name);
    return {
      protocol: PROTOCOL,
      name: "transformers.js",
      versions: { ...versions, node: process.versions.node },
      formats: ["onnx"],
      methods: ["generate", "decode_logits"],
    };
  },

  async open({ model: file, threads, options }) {
    const { home, stem, dtype, subfolder } = placeOf(file);
    const entry = path.join(packageOf(options.folder, "@huggingface/transformers"), "dist", "transformers.node.mjs");
    library = await import(pathToFileURL(entry));
    Object.assign(library.env, { allowRemoteModels: false, localModelPath: path.dirname(home) + path.sep, useFSCache: false });
    const name = path.basename(home);
    tokenizer = await library.AutoTokenizer.from_pretrained(name);
    const said = tokenizer._tokenizerJSON;
    const added_tokens = (said.added_tokens ?? []).filter((each) => !each.special);
    literal = new tokenizer.constructor({ ...said, added_tokens }, tokenizer.config);
    const auto = stem === "model" ? library.AutoModelForCausalLM : library.AutoModelForImageTextToText;
    const session_options = threads ? { intraOpNumThreads: threads } : {};
    model = await auto.from_pretrained(name, { dtype, subfolder, session_options });
    vocabulary = (await read([0])).dims.at(-1);
    return null;
  },

  identity() {
    const [plain, special] = [false, true].map((add_special_tokens) => tokenizer.encode("a", { add_special_tokens }));
    const ends = [model.generation_config?.eos_token_id ?? model.config.eos_token_id, tokenizer.eos_token_id].flat();
    const more = special.length > plain.length;
    const templates = tokenizer.chat_template ?? {};
    return {
      vocab: vocabulary,
      bos: tokenizer.bos_token_id ?? -1,
      eos: tokenizer.eos_token_id ?? -1,
      pad: tokenizer.pad_token_id ?? -1,
      end_of_generation: [...new Set(ends)].filter((id) => Number.isInteger(id)),
      adds_bos: more && special[0] === tokenizer.bos_token_id,
      adds_eos: more && special.at(-1) === tokenizer.eos_token_id,
      templates: typeof templates === "string" ? { default: templates } : templates,
      added: Object.fromEntries((tokenizer._tokenizerJSON.added_tokens ?? []).map((each) => [each.content, each.special])),
    };
  },

  tokenize({ text, add_special, parse_special }) {
    return (parse_special ? tokenizer : literal).encode(text, { add_special_tokens: add_special });
  },

  detokenize({ tokens }) {
    if (!tokens.length) return "";
    return tokenizer.decode(tokens, { skip_special_tokens: true, clean_up_tokenization_spaces: false });
  },

  pieces() {
    const pieces = Array(vocabulary).fill("");
    const vocab = tokenizer.get_vocab();
    for (const [piece, id] of vocab instanceof Map ? vocab : Object.entries(vocab)) if (id < vocabulary) pieces[id] = piece;
    return pieces;
  },

  async logits({ tokens }) {
    return array((await read(checked(tokens))).data, tokens.length);
  },

  async decode_logits({ tokens }) {
    const kept = [];
    const logits_processor = forcing(checked(tokens), kept);
    const words = { ...PLAIN, max_new_tokens: tokens.length, eos_token_id: null, logits_processor };
    await model.generate({ ...asked(tokens.slice(0, 1)), ...words });
    const rows = new Float32Array(tokens.length * vocabulary);
    kept.forEach((row, place) => rows.set(row, place * vocabulary));
    if (kept.length !== tokens.length) throw new Refused("failed", `${kept.length} steps for ${tokens.length} tokens`);
    return array(rows, tokens.length);
  },

  async generate({ tokens, count }) {
    const made = await model.generate({ ...asked(checked(tokens)), ...PLAIN, max_new_tokens: count });
    return made.tolist()[0].slice(tokens.length).map(Number);
  },
};

function write(bytes) {
  for (let at = 0; at < bytes.length; ) {
    try {
      at += writeSync(1, bytes, at);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
}

async function answer({ id, method, params }) {
  try {
    if (!Object.hasOwn(methods, method)) throw new Refused("unsupported", `there is no method ${method}`);
    const value = await methods[method](params);
    if (value?.array === undefined) return [{ id, result: value }];
    const bytes = Buffer.from(value.array.buffer, value.array.byteOffset, value.array.byteLength);
    return [{ id, array: { dtype: "float32", shape: value.shape } }, bytes];
  } catch (error) {
    const message = String(error?.message ?? error).split(/\s+/).join(" ").slice(0, 600);
    return [{ id, error: { kind: error.kind ?? "failed", message } }];
  }
}

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  const [head, bytes] = await answer(JSON.parse(line));
  write(Buffer.from(JSON.stringify(head) + "\n"));
  if (bytes) write(bytes);
}
process.exit(0);
