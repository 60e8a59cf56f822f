"""Links over an MQTT broker: the client, presence, frames, encryption and channels."""
