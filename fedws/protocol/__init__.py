"""The encoding of messages as bytes and the proofs of the handshake; pure code without I/O."""
