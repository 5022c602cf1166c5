"""Events on their way to the runs that wait for them."""
