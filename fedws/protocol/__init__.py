"""Messages as bytes, and the proofs of the handshake: pure, without I/O."""
