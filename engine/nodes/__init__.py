"""The nodes that come with REFLUX."""
