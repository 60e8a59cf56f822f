"""The transports, one per file. Each file has the name of its URL scheme."""
