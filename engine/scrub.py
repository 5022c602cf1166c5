"""Removes secret values from what a node gives back: a server may echo a header, an error may quote a URL."""

import base64
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus

import orjson

from core.errors import StepError
from core.json import JsonValue

MASK = "***"


class Scrubber:
    """Knows secret values in the forms in which they may come back: as they are, in JSON, in a URL, in base64."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms: set[str] = set()
        for secret in secrets:
            if secret:
                forms |= _forms(secret)
        # Longest first: a form may be part of another.
        self._forms = sorted(forms, key=len, reverse=True)

    def extended(self, secrets: Iterable[str]) -> "Scrubber":
        """A scrubber that knows these values too."""
        more = list(secrets)
        if not more:
            return self
        wider = Scrubber(more)
        wider._forms = sorted({*wider._forms, *self._forms}, key=len, reverse=True)
        return wider

    def text(self, text: str) -> str:
        """The text with every known form masked."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        return text

    def value(self, value: JsonValue, encoded: bytes) -> tuple[JsonValue, bytes]:
        """A value and its JSON text with every known form masked; the same objects when there is nothing to mask."""
        if not self._forms:
            return value, encoded
        text = encoded.decode()
        if not any(form in text for form in self._forms):
            return value, encoded
        masked = self._walk(value)
        return masked, orjson.dumps(masked)

    def error(self, error: StepError) -> StepError:
        """The error with message and detail masked."""
        if not self._forms:
            return error
        detail = {key: self.text(one) if isinstance(one, str) else one for key, one in error.detail.items()}
        return StepError(
            error.error_class,
            self.text(error.message),
            retry_after=error.retry_after,
            detail=detail,
            outcome_unknown=error.outcome_unknown,
        )

    def _walk(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self._walk(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._walk(one) for one in value]
        if isinstance(value, int | float) and not isinstance(value, bool) and str(value) in self._forms:
            return MASK
        return value


def _forms(secret: str) -> set[str]:
    raw = secret.encode()
    return {
        secret,
        orjson.dumps(secret).decode()[1:-1],
        quote(secret, safe=""),
        quote_plus(secret),
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        raw.hex(),
    }
