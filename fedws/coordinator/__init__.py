"""The coordinator: dials the nodes, drives a strategy over them, has models scored, keeps the record."""
