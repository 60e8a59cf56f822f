"""Links between nodes: liveness, admission, back-off, websocket and MQTT."""
