"""A dedicated evaluator as an application on public names of fedws: ``python -m evaluator --port 8780``."""
