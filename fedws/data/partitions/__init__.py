"""Partitions, one a file: how samples are split among workers."""
