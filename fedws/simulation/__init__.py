"""Virtual time: a fleet of simulated devices, and runs over it that take no time of ours but for the training."""
