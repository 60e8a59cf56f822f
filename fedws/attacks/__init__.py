"""What an adversary can do."""
