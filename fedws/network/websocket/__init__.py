"""Links over a WebSocket: the channel, the monitored connections and the TLS listener."""
