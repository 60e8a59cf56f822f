"""Network key, TLS and certificates: who may connect."""
