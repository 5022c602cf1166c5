"""The shapes of what the API answers, as its OpenAPI document publishes them. Routes answer with bytes of their own."""
