"""Dedicated evaluator, an application that uses only the public names of fedws.

Start it with ``python -m evaluator --port 8780``.
"""
