"""The network key, TLS and certificates, which decide which nodes may connect."""
