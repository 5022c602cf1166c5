"""Searches node parameters and routing weights, and turns what it finds into proposals."""
