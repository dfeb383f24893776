"""Kinds of real damage, each made on an honest output, and what validation must say: `python -m tests.faults`."""
