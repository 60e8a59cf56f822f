"""Samplers, one per file, which select the cohort of a round."""
