"""Results that are used again, and calls that are made once for all who ask at the same time."""
