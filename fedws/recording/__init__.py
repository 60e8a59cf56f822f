"""The directory of a run: log, metrics, checkpoint and curves."""
