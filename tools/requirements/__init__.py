"""What a release is built and checked with: every dependency at one version, by its hash (see CONTRIBUTING.md)."""
