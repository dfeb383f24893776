"""How GGUF files are run, for their card."""

from __future__ import annotations

from convert.formats.base import Usage

PYTHON = """\
import xllamacpp as xlc

params = xlc.CommonParams()
params.model.path = "{file}"
params.mmproj.path = "{projector}"
params.n_ctx = 2048
server = xlc.Server(params)
answer = server.handle_chat_completions(
    {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}
)
print(answer["choices"][0]["message"]["content"])
"""

USAGE = (
    Usage("llama.cpp, from the hub", "llama-server -hf {repository}:{type}", hub=True),
    Usage("llama.cpp", "llama-server -m {file}\nllama-server -m {file} --mmproj {projector} # with images"),
    Usage("llama.cpp in Python (`pip install xllamacpp`)", PYTHON, "python"),
    Usage("Ollama, from the hub", "ollama run hf.co/{repository}:{type}", hub=True),
    Usage("Ollama, with the Modelfile", "ollama create {name} -f Modelfile\nollama run {name}"),
    Usage("LM Studio", "lms get {repository}", hub=True),
    Usage("KoboldCpp", "koboldcpp --model {file}\nkoboldcpp --model {file} --mmproj {projector} # with images"),
)
