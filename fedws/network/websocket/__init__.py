"""Messages over one websocket: the link, and the watch that is kept over it."""
