"""Schedulers over many or slow workers."""
