"""The REST endpoints, one file for each thing that they are about."""
