"""Time, bytes and memory of links, rounds and the coordinator."""
