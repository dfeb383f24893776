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

PORTABLE = (
    Usage("ONNX Runtime (`pip install onnxruntime`)", LOOK, "python"),
    Usage("transformers.js", JAVASCRIPT, "js", hub=True),
)
FOLDER = (Usage("onnxruntime-genai (`pip install onnxruntime-genai`)", GENAI, "python"),)
