"""Workers: one file each, run by the Python of another environment, which has none of our packages."""
