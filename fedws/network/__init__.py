"""Links between nodes: liveness, admission, back-off, WebSocket and MQTT."""
