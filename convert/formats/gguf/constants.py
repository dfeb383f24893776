"""What every GGUF file begins with. Source: ggml/docs/gguf.md."""

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
