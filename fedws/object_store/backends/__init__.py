"""Object stores: one file for each URL scheme."""
