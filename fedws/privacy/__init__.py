"""Control of what leaves a node: secure randomness, randomised labels, the owner's policy and the audit log."""
