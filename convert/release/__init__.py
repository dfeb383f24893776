"""A finished run as repositories, as hubs expect them: files, cards, checksums, provenance, and where they go."""
