"""The processing of updates between a worker's optimizer and the global model."""
