"""What readers of quantized weights raise."""


class UnreadableError(Exception):
    """Why weights cannot be read, in words that follow "quantization_config says …:"."""
