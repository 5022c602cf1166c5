"""Removes secret values from what a node gives back: a server may echo a header, an error may quote a URL.

Letters and digits look the same in every quoting (JSON, URLs, HTML, a program's repr, each also inside another), so a
secret's longest run of them tells fast whether it can be there at all; only then a pattern looks for the whole.
"""

import base64
import html
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import orjson

from core.errors import StepError
from core.json import JsonValue

MASK = "***"

_SHORTEST_CORE = 6
"""Characters of base64 from which on a match is no coincidence."""
_NAMED = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}


class _Form:
    """One way in which a secret may lie in a text."""

    __slots__ = ("anchor", "pattern")

    def __init__(self, anchor: str, pattern: re.Pattern[str] | None = None) -> None:
        self.anchor = anchor
        self.pattern = pattern

    def mask(self, text: str) -> str:
        if self.anchor not in text:
            return text
        return text.replace(self.anchor, MASK) if self.pattern is None else self.pattern.sub(MASK, text)


class Scrubber:
    """Knows secret values in the forms in which they may come back: as they are, quoted, in base64, in hex."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = frozenset(secret for secret in secrets if secret)
        # Longest first: one secret may be part of another.
        ordered = sorted(self._secrets, key=len, reverse=True)
        self._forms = [form for secret in ordered for form in _forms(secret)]

    def extended(self, secrets: Iterable[str]) -> "Scrubber":
        """A scrubber that knows these values too."""
        more = frozenset(secrets) - self._secrets
        return Scrubber(self._secrets | more) if more else self

    def text(self, text: str) -> str:
        """The text with every known form masked."""
        for form in self._forms:
            text = form.mask(text)
        return text

    def value(self, value: JsonValue, encoded: bytes) -> tuple[JsonValue, bytes]:
        """A value and its JSON text with every known form masked; the same objects when there is nothing to mask."""
        if not self._forms:
            return value, encoded
        text = encoded.decode()
        if not any(form.anchor in text for form in self._forms):
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
        if isinstance(value, int | float) and not isinstance(value, bool) and str(value) in self._secrets:
            return MASK
        return value


@lru_cache(maxsize=1_024)
def _forms(secret: str) -> tuple[_Form, ...]:
    raw = secret.encode("utf-8", "surrogatepass")
    anchor = max(re.findall(r"[A-Za-z0-9]+", secret), key=len, default="")
    plain = {raw.hex(), raw.hex().upper()}
    for before in range(3):
        # Base64 depends on how many bytes stand before; the outermost characters on which ones.
        encoded = base64.b64encode(bytes(before) + raw).decode().rstrip("=")
        core = encoded[-(-before * 8 // 6) : len(encoded) - (1 if (before + len(raw)) % 3 else 0)]
        if len(core) >= _SHORTEST_CORE:
            plain |= {core, core.replace("+", "-").replace("/", "_")}
    patterns = [_Form(anchor, re.compile(_quoted(secret)))]
    if not secret.isascii():
        # UTF-8 that somebody took for Latin-1.
        patterns.append(_Form(anchor, re.compile(re.escape(raw.decode("latin-1")))))
    return (*patterns, *(_Form(form) for form in sorted(plain, key=len, reverse=True)))


def _quoted(secret: str) -> str:
    """A pattern for the secret in any quoting. Runs of backslashes are possessive: no text makes it slow."""
    pieces = []
    for run in re.findall(r"\\+|[^\\]", secret):
        if run[0] == "\\":
            pieces.append(
                rf"(?:\\{{{len(run)},{8 * len(run)}}}+|{_in_url(run)}|(?i:(?:\\{{1,8}}+(?:x|u00)5c){{{len(run)}}}))"
            )
        elif run.isascii() and run.isalnum():
            pieces.append(run)
        else:
            pieces.append(_quotings(run, 0 if pieces and pieces[-1].startswith(r"(?:\\") else 1))
    return "".join(pieces)


def _quotings(letter: str, least: int) -> str:
    """A pattern for all that a character may become. `least`: backslashes that an escape begins with."""
    ways = [re.escape(letter), _in_url(letter), f"(?i:&(?:amp;)?#(?:{ord(letter)}|x0*{ord(letter):x});)"]
    if html.escape(letter) != letter:
        ways.append(html.escape(letter).replace("&", "&(?:amp;)?"))
    if letter == " ":
        ways.append(r"\+")
    units = letter.encode("utf-16-be", "surrogatepass")
    escapes = [r"\\{1,8}+".join(f"u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))]
    escapes.append(r"\\{1,8}+".join(f"x{byte:02x}" for byte in letter.encode("utf-8", "surrogatepass")))
    if ord(letter) < 256:
        escapes.append(f"x{ord(letter):02x}")
    if letter in _NAMED:
        escapes.append(_NAMED[letter])
    return rf"(?:\\{{0,8}}+(?:{'|'.join(ways)})|\\{{{least},8}}+(?i:{'|'.join(escapes)}))"


def _in_url(text: str) -> str:
    return "(?i:" + "".join(f"%(?:25)?{byte:02x}" for byte in text.encode("utf-8", "surrogatepass")) + ")"
