"""What models are calibrated on: the default mix, and rows of tokens of it or of a recipe's own files."""
