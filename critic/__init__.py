"""Finds out from traces why runs fail, cost too much or take too long."""
