"""What carries links over an MQTT broker."""
