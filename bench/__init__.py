"""Measures the service against raw limits of the same machine, taken in the same run."""
