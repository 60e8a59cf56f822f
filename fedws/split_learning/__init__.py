"""Split learning: split a model, upload its features, and train the head on the coordinator."""
