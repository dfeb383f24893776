"""Every message a user may read, in text files beside this one, for a reviewer to read from top to bottom.

`convert.*.txt`, `quantize.txt` and `validate.txt` are read out of the code (`inventory`), so none can be missing;
`rendered.*.txt` are what is really printed for broken inputs and for a small model (`rendered`).
`python -m tests.messages --write` writes them anew; `tests/test_messages.py` holds them to the code.
"""
