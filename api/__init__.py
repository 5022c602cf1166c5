"""The REST service, the command line, and the composition root that joins the rooms."""
