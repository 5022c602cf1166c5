"""Attempts that worker processes perform: the owner's side, the worker's side, and what passes between them."""
