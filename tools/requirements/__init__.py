"""Scripts that pin the dependencies of a release by version and hash, and check them (see CONTRIBUTING.md)."""
