"""Takes a proposal from shadow to full traffic, with guardrails and a person's approval."""
