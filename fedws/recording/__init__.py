"""The directory of a run: log, metrics, checkpoints and curves."""
