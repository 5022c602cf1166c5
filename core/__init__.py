"""The vocabulary every room shares: ids, spec, events, traces, errors, clock. It imports nothing of REFLUX."""
