"""Chooses which version of a node serves a step, and remembers which of them fail."""
