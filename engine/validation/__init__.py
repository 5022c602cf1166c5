"""What a spec means, checked before it is stored: every fault at once, each with its place and a way out."""

from engine.validation.check import Validated, validate

__all__ = ["Validated", "validate"]
