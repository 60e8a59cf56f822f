"""Pure state machines that decide which workers get a request and when a round closes."""
