"""`convert serve`: outputs in a browser on this machine, by transformers.js."""
