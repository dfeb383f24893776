"""One file per kind of tokenizer that a GGUF file can hold; `convert.formats.gguf.vocabulary` picks among them."""
