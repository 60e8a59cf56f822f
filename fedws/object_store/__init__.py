"""Object stores, which carry large message bodies beside the links."""
