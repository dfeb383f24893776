"""Recipes with a mistake, each of a kind that people make. `Model` is a tiny checkpoint beside the recipe."""

HEAD = "name: small\nmodel: {path: Model}\n"

WRONG = {
    "an unknown word": HEAD + "stage:\n  gguf: {use: gguf}\n",
    "no name": "model: {path: Model}\nstages:\n  gguf: {use: gguf}\n",
    "a name that is no folder": "name: a/b\nmodel: {path: Model}\nstages:\n  gguf: {use: gguf}\n",
    "not YAML": "name: small\nmodel: {path: Model\nstages:\n",
    "a word twice": HEAD + "stages:\n  a: {use: gguf, types: [F16]}\n  a: {use: gguf, types: [Q8_0]}\n",
    "an empty file": "",
    "a stage that is unknown": HEAD + "stages:\n  a: {use: ggfu}\n",
    "an option that is unknown": HEAD + "stages:\n  a: {use: gguf, typs: [Q8_0]}\n",
    "an option is missing": HEAD + "stages:\n  a: {use: gguf}\n",
    "an option of the wrong kind": HEAD + "stages:\n  a: {use: imatrix, text: notes.txt, chunks: many}\n",
    "a type that is unknown": HEAD + "stages:\n  a: {use: gguf, types: [Q4_KM]}\n",
    "a type that is nothing like one": HEAD + "stages:\n  a: {use: gguf, types: [tiny]}\n",
    "a stage from nowhere": HEAD + "stages:\n  a: {use: gguf, types: [F16], from: b}\n",
    "stages in a circle": HEAD + "stages:\n  a: {use: gguf, from: b, types: [F16]}\n"
    "  b: {use: gguf, from: a, types: [F16]}\n",
    "a GGUF file of a GGUF file": HEAD + "stages:\n  a: {use: gguf, types: [F16]}\n"
    "  b: {use: gguf, from: a, types: [Q8_0]}\n",
    "the model is not there": "name: small\nmodel: {path: Nowhere}\nstages:\n  a: {use: gguf, types: [F16]}\n",
    "the model is a file": "name: small\nmodel: {path: notes.txt}\nstages:\n  a: {use: gguf, types: [F16]}\n",
    "a folder and a hub id": "name: small\nmodel: {path: Model, hub: a/b}\nstages:\n  a: {use: gguf, types: [F16]}\n",
    "a projector of a text model": HEAD + "stages:\n  a: {use: gguf, types: [F16], mmproj: F16}\n",
    "an override that matches nothing": HEAD + "stages:\n  a: {use: gguf, types: [Q8_0], overrides: {ffn_dwn: F16}}\n",
    "an override that is no expression": HEAD + "stages:\n  a: {use: gguf, types: [Q8_0], overrides: {'(': F16}}\n",
    "a type that needs an importance matrix": HEAD + "stages:\n  a: {use: gguf, types: [IQ2_XS, Q2_K_S]}\n",
    "an importance matrix that is not there": HEAD + "stages:\n  a: {use: gguf, types: [Q4_K_M], imatrix: no.dat}\n",
    "an importance matrix that is none": HEAD + "stages:\n  a: {use: gguf, types: [Q4_K_M], imatrix: notes.txt}\n",
    "a calibration text that is not there": HEAD + "stages:\n  a: {use: imatrix, text: none.txt}\n",
    "a size that is none": HEAD + "stages:\n  a: {use: gguf, types: [F16], split: 45 gigabytes}\n",
    "a shard smaller than a tensor": HEAD + "stages:\n  a: {use: gguf, types: [F16], split: 1K}\n",
    "a pre-tokenizer that is unknown": HEAD + "stages:\n  a: {use: gguf, types: [F16], pre_tokenizer: qwen9}\n",
    "GPTQ calibrated on nothing at all": HEAD + "stages:\n  a: {use: gptq, calibration: {samples: 0}}\n",
    "GPTQ of an odd group size": HEAD + "stages:\n  a: {use: gptq, group_size: 100, calibration: {text: notes.txt}}\n",
    "GPTQ with groups that do not fit": HEAD
    + "stages:\n  a: {use: gptq, group_size: 128, calibration: {text: notes.txt}}\n",
    "AWQ with screenshots of a text model": HEAD + "stages:\n  a: {use: awq, calibration: {screens: notes.txt}}\n",
    "ONNX in an unknown precision": HEAD + "stages:\n  a: {use: onnx, precision: fp8}\n",
    "TensorRT of a checkpoint": HEAD + "stages:\n  a: {use: tensorrt}\n",
    "TensorRT of a GGUF file": HEAD + "stages:\n  a: {use: gguf, types: [F16]}\n  b: {use: tensorrt, from: a}\n",
    "somebody's file that is not there": HEAD + "stages:\n  a: {use: existing, path: their.gguf}\n",
    "somebody's file that is no model": HEAD + "stages:\n  a: {use: existing, path: notes.txt}\n",
    "somebody's folder that is no model": HEAD + "stages:\n  a: {use: existing, path: .}\n",
    "nothing to validate": HEAD + "stages: {}\nvalidate: {}\n",
    "a limit of a metric that is unknown": HEAD
    + "stages:\n  a: {use: gguf, types: [F16]}\nvalidate:\n  limits: {F16: {kl_men: 0.1}}\n",
    "a limit of an output that is not there": HEAD
    + "stages:\n  a: {use: gguf, types: [F16]}\nvalidate:\n  limits: {Q8_0: {kl_mean: 0.1}}\n",
    "a preset that is unknown": HEAD + "stages:\n  a: {use: gguf, types: [F16]}\nvalidate:\n  limits: {'*': perfect}\n",
    "a runtime that is unknown": HEAD + "stages:\n  a: {use: gguf, types: [F16]}\nvalidate: {also_on: [openvnio]}\n",
    "images for a text model": HEAD + "stages:\n  a: {use: gguf, types: [F16]}\nvalidate: {images: [notes.txt]}\n",
    "a text that is not there": HEAD + "stages:\n  a: {use: gguf, types: [F16]}\nvalidate: {text: none.txt}\n",
    "a window larger than the model's": HEAD
    + "stages:\n  a: {use: gguf, types: [F16]}\nvalidate: {window: 100000, tokens: 100000}\n",
}
