"""Shipped partitions, one in each file, which split samples among workers."""
