// The page of `convert serve`: choose an output, type, drop an image; what it answers, how fast, and where it clicks.

const WASM_BYTES = 4 * 2 ** 30; // what WebAssembly addresses in all: weights, cache and intermediate values
const WASM_ROOM = 0.8; // of it for weights
const FILE_BYTES = 2 ** 31; // what a browser reads into one array
const STOP_MS = 2000;
const OUT_OF_MEMORY = /bad_alloc|out of memory|allocation failed|memory access out of bounds|failed to allocate|invalid array length/i;
const POINT = /"coordinate"\s*:\s*\[\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*\]/;

const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
let outputs = [];
let image = null; // {name, bitmap}
let worker = null;
let running = false;

const output = () => outputs.find((each) => each.name === at.output.value);
const size = (bytes) => (bytes < 1e9 ? `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB` : `${(bytes / 1e9).toFixed(1)} GB`);
const option = (value, text = value) => new Option(text, value);

function problem(words) {
  at.problem.textContent = words ?? "";
  at.problem.hidden = !words;
  if (words) at.status.textContent = "";
}

// ---- what there is to choose from

async function start() {
  at.device.append(option("wasm", "WebAssembly (CPU)"));
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (adapter) at.device.prepend(option("webgpu", "WebGPU"));
  at.device.value = adapter ? "webgpu" : "wasm";
  at.device.title = adapter ? "" : "This browser offers no WebGPU here.";
  let listing;
  try {
    listing = await (await fetch("outputs.json")).json();
  } catch {
    return problem("convert serve does not answer: start it again and reload this page.");
  }
  outputs = listing.outputs;
  at.output.append(...outputs.map((each) => option(each.name)));
  if (!outputs.length) {
    at.output.append(option("", "none"));
    problem(`There is no model here that transformers.js opens: ${listing.remedy}.`);
  }
  show();
}

function show() {
  const chosen = output();
  const names = Object.keys(chosen?.dtypes ?? {});
  const before = at.dtype.value;
  at.dtype.replaceChildren(...names.map((name) => option(name, `${name}, ${size(chosen.dtypes[name].bytes)}`)));
  at.dtype.value = names.includes(before) ? before : (["q8", "q4", "q4f16", "fp16"].find((name) => names.includes(name)) ?? names[0] ?? "");
  at.drop.classList.toggle("off", !chosen?.images);
  at.hint.innerHTML = chosen && !chosen.images ? "This model takes no images." : "Drop an image here, paste one, or <u>choose a file</u>.";
  if (!chosen?.images) forget();
  for (const name of ["run", "output", "dtype"]) at[name].disabled = running || (name !== "run" && !chosen);
}

// Why it cannot work, before anything is loaded; empty where it may.
function hopeless() {
  const chosen = output();
  if (!chosen) return "There is no model to run: choose an output first.";
  if (!at.prompt.value.trim()) return "The prompt is empty: type what the model should do.";
  const { bytes, largest } = chosen.dtypes[at.dtype.value];
  const smaller = Object.entries(chosen.dtypes).filter(([, each]) => each.bytes < bytes).map(([name]) => name);
  const remedy = smaller.length ? `choose ${smaller.join(" or ")}` : "make it in a smaller precision, int4 say";
  if (at.device.value === "wasm" && bytes > WASM_BYTES * WASM_ROOM) {
    return `${at.dtype.value} has ${size(bytes)} of weights, and WebAssembly has 4 GB of memory for everything: ${remedy}.`;
  }
  if (largest >= FILE_BYTES) return `${at.dtype.value} has a file of ${size(largest)}, and a browser reads at most 2 GB in one: ${remedy}.`;
  return "";
}

// ---- the image

async function take(file) {
  if (!file || running) return;
  if (!output()?.images) return problem(output() ? `${output().name} takes no images.` : "There is no model to show an image to.");
  try {
    const bitmap = await createImageBitmap(file);
    image = { name: file.name, bitmap };
  } catch {
    const kind = file.type || "unknown type";
    return problem(`${file.name} (${kind}) is no image that this browser can read: drop a PNG, a JPEG or a WebP.`);
  }
  problem();
  draw();
}

function draw(point) {
  const { width, height } = image.bitmap;
  Object.assign(at.canvas, { width, height, hidden: false });
  const pen = at.canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(image.bitmap, 0, 0);
  at.hint.textContent = `${image.name}, ${width} × ${height}`;
  at.clear.hidden = false;
  if (!point) return;
  const reach = Math.max(6, Math.min(width, height) / 16);
  for (const [color, wide] of [["#ffffff", reach / 2.5], ["#d6006c", reach / 5]]) {
    pen.strokeStyle = color;
    pen.lineWidth = wide;
    pen.beginPath();
    pen.arc(point.x, point.y, reach, 0, 2 * Math.PI);
    for (const [dx, dy] of [[1, 0], [0, 1], [-1, 0], [0, -1]]) {
      pen.moveTo(point.x + (dx * reach) / 2, point.y + (dy * reach) / 2);
      pen.lineTo(point.x + dx * reach * 1.6, point.y + dy * reach * 1.6);
    }
    pen.stroke();
  }
}

function forget() {
  image = null;
  at.canvas.hidden = at.clear.hidden = true;
  at.click.textContent = "";
}

function pixels() {
  if (!image) return null;
  draw();
  const { width, height } = at.canvas;
  const { data } = at.canvas.getContext("2d").getImageData(0, 0, width, height);
  return { data: new Uint8ClampedArray(data), width, height };
}

// ---- running

function begin() {
  worker ??= new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => hear(data);
  worker.onerror = (event) => hear({ problem: event.message || "the model's thread ended" });
}

function run() {
  const why = hopeless();
  problem(why);
  if (why || running) return;
  begin();
  for (const name of ["answer", "speed", "click"]) at[name].textContent = "";
  at.status.textContent = "Loading the model …";
  busy(true);
  const given = pixels();
  const asked = { output: output(), dtype: at.dtype.value, device: at.device.value, prompt: at.prompt.value };
  worker.postMessage({ ...asked, count: at.count.valueAsNumber || 64, image: given }, given ? [given.data.buffer] : []);
}

// It ends behind a token; WebAssembly that is deep in one hears nothing, and is ended itself.
function stop() {
  worker?.postMessage({ stop: true });
  const asked = worker;
  setTimeout(() => {
    if (!running || worker !== asked) return;
    end();
    at.status.textContent = "Stopped.";
  }, STOP_MS);
}

function end() {
  worker?.terminate();
  worker = null; // whatever it holds is gone with it
  busy(false);
}

function busy(is) {
  running = is;
  at.stop.disabled = !is;
  at.progress.hidden = true;
  for (const name of ["run", "output", "dtype", "device"]) at[name].disabled = is;
}

function hear({ progress, loaded, text, done, problem: wrong }) {
  if (progress) {
    at.progress.hidden = false;
    at.progress.value = progress.loaded / progress.total;
    at.status.textContent = `Loading the model: ${size(progress.loaded)} of ${size(progress.total)}`;
  } else if (loaded) {
    at.progress.hidden = true;
    at.status.textContent = "Reading the prompt …";
  } else if (text !== undefined) {
    at.answer.textContent += text;
    at.status.textContent = "Writing …";
  } else if (done) {
    finish(done);
  } else {
    end();
    problem(OUT_OF_MEMORY.test(wrong) ? `The model does not fit into the browser's memory (${wrong}): choose a smaller precision.` : `It did not run: ${wrong}`);
  }
}

function finish({ size: seen, prompt, tokens, firstSeconds, seconds }) {
  busy(false);
  const pace = tokens > 1 && seconds ? `, then ${((tokens - 1) / seconds).toFixed(1)} tokens per second` : "";
  at.status.textContent = "Done.";
  at.speed.textContent = `${tokens} tokens after a prompt of ${prompt}: the first after ${firstSeconds.toFixed(2)} s${pace}.`;
  const found = image && seen && POINT.exec(at.answer.textContent);
  if (!found) return;
  const [x, y] = [(found[1] * image.bitmap.width) / seen.width, (found[2] * image.bitmap.height) / seen.height];
  const inside = x >= 0 && y >= 0 && x < image.bitmap.width && y < image.bitmap.height;
  at.click.textContent = `It clicks at ${found[1]}, ${found[2]}${inside ? "" : ", which is outside of the image"}.`;
  if (inside) draw({ x, y });
}

// ---- what the user does

at.output.onchange = () => (problem(), show());
at.dtype.onchange = at.device.onchange = () => problem();
at.form.onsubmit = (event) => (event.preventDefault(), run());
at.prompt.onkeydown = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && run();
at.stop.onclick = stop;
at.clear.onclick = () => (forget(), show());
at.drop.onclick = () => output()?.images && at.file.click();
at.drop.onkeydown = (event) => ["Enter", " "].includes(event.key) && (event.preventDefault(), at.drop.onclick());
at.file.onchange = () => take(at.file.files[0]).finally(() => (at.file.value = ""));
at.drop.ondragover = (event) => (event.preventDefault(), at.drop.classList.add("over"));
at.drop.ondragleave = () => at.drop.classList.remove("over");
at.drop.ondrop = (event) => (event.preventDefault(), at.drop.classList.remove("over"), take(event.dataTransfer.files[0]));
window.ondragover = window.ondrop = (event) => event.preventDefault(); // a file beside the field does not leave the page
window.onpaste = ({ clipboardData }) => clipboardData.files.length && take(clipboardData.files[0]);
start();
