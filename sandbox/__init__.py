"""Runs untrusted code in a box."""
