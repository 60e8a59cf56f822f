"""The nodes of a run other than the coordinator: workers and evaluators, and the server that runs them."""
