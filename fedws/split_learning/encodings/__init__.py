"""How features leave a worker, one way a file."""
