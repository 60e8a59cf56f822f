"""The nodes of the demo, which are the defaults of a plan and of a worker."""

DEFAULT_WORKERS = {
    "alice": "ws://localhost:8777",
    "bob": "ws://localhost:8778",
    "charlie": "ws://localhost:8779",
}
"""Address of each worker by its id."""
DEFAULT_EVALUATOR = {"testing": "ws://localhost:8780"}
"""Address of the evaluator by its id."""
DEMO_LABELS = {"alice": (0, 1, 2, 3), "bob": (4, 5, 6), "charlie": (7, 8, 9)}
"""Labels that each worker of the demo holds, if the data set ships with fedws."""
