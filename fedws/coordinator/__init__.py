"""The coordinator: dials the nodes, drives a scheduler over them, has models scored, keeps the record."""
