"""The nodes of the demo, which a plan and a worker take by default."""

DEFAULT_WORKERS = {
    "alice": "ws://localhost:8777",
    "bob": "ws://localhost:8778",
    "charlie": "ws://localhost:8779",
}
"""Address of each worker."""
DEFAULT_EVALUATOR = {"testing": "ws://localhost:8780"}
"""Address of the evaluator."""
DEMO_LABELS = {"alice": (0, 1, 2, 3), "bob": (4, 5, 6), "charlie": (7, 8, 9)}
"""Labels that the workers of the demo hold, of a data set that comes with fedws."""
