"""The coordinator: it connects to the nodes, runs a scheduler, requests evaluations and writes the record."""
