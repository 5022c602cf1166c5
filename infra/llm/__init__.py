"""Language models over the providers' own clients."""
