"""Kills the server again and again while it works, and checks that nothing was lost and nothing was done twice."""
