"""What starts runs besides a call: the clock, HTTP requests, events, people. Each firing starts one run, once."""
