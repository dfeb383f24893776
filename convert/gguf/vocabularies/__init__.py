"""One file per kind of tokenizer that a GGUF file can hold; `convert.gguf.vocabulary` picks among them."""
