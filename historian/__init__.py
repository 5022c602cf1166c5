"""Remembers what was tried in which situation and what came of it."""
