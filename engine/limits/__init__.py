"""Limits that hold over all processes: so many at once, so many in a time, the most urgent first, and fair."""
