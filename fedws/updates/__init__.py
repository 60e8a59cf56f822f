"""What happens to an update between a worker's optimizer and the global model."""
