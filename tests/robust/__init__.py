"""What the command line stands: `make hostile`, `make crash`, `make fuzz`."""
