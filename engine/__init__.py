"""Runs workflows durably: pure graph, plan and retry decisions, and the asynchronous runner around them."""
