"""Losses, one file a group of the paper's equations."""
