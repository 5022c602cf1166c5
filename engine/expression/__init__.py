"""Bounded CEL expressions: `{{ … }}` templates, their references, and an evaluator that no expression can hurt."""
