"""Who is asked in a round, one way a file."""
