"""What models are calibrated on: the default mix, which is ours, and rows of tokens of it or of a recipe's own files."""
