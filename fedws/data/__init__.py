"""What a node holds: samples, loading and splitting."""
