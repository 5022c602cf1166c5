"""Turns OpenAPI documents into tested, versioned nodes."""
