"""How ONNX graphs are run, for their card."""

from __future__ import annotations

from convert.formats.base import Usage

LOOK = """\
import onnxruntime

session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
print([(value.name, value.shape) for value in session.get_inputs()])
"""

JAVASCRIPT = """\
import { pipeline } from "@huggingface/transformers";

const generate = await pipeline("{task}", "{repository}", { dtype: "{dtype}" });
console.log(await generate("Hello", { max_new_tokens: 32 }));
"""

WITH_IMAGES = """\
import { AutoModelForImageTextToText, AutoProcessor, RawImage } from "@huggingface/transformers";

const processor = await AutoProcessor.from_pretrained("{repository}");
const model = await AutoModelForImageTextToText.from_pretrained("{repository}", { dtype: "{dtype}" });
const content = [{ type: "image" }, { type: "text", text: "What is this?" }];
const prompt = processor.apply_chat_template([{ role: "user", content }], { add_generation_prompt: true });
const inputs = await processor(prompt, await RawImage.read("image.png"));
const ids = await model.generate({ ...inputs, max_new_tokens: 64 });
console.log(processor.batch_decode(ids.slice(null, [inputs.input_ids.dims[1], null]), { skip_special_tokens: true }));
"""

GENAI = """\
import onnxruntime_genai as og

model = og.Model(".")
tokenizer = og.Tokenizer(model)
params = og.GeneratorParams(model)
params.set_search_options(max_length=128)
generator = og.Generator(model, params)
generator.append_tokens(tokenizer.encode("Hello"))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))
"""

RUNTIME = Usage("ONNX Runtime (`pip install onnxruntime`)", LOOK, "python")
PORTABLE = (RUNTIME, Usage("transformers.js", JAVASCRIPT, "js", hub=True))
IMAGES = (RUNTIME, Usage("transformers.js", WITH_IMAGES, "js", hub=True))  # it has no pipeline for these
FOLDER = (Usage("onnxruntime-genai (`pip install onnxruntime-genai`)", GENAI, "python"),)
