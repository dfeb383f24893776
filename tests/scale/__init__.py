"""What batches cost and survive at scale: `python -m tests.scale PART`, by hand (`make scale`)."""
