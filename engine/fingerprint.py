"""One name for one failure: messages that differ only in ids, numbers and times get the same fingerprint."""

import hashlib
import re
from collections.abc import Callable

_MAX_MESSAGE = 2_000

_HEX = re.compile(r"[0-9a-f]{16,}")


def _id_or_word(match: re.Match[str]) -> str:
    """Letters and digits mixed are an id such as `ch_3Nx9` or a hash; words and numbers are not."""
    text = match[0]
    mixed = any(map(str.isdigit, text)) and any(map(str.isalpha, text))
    return "<id>" if mixed or _HEX.fullmatch(text) else text


# The order matters: larger shapes first, so that their parts are not taken apart by the smaller ones.
_RULES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    # The path keeps its words, so that two endpoints stay two failures; the query goes.
    (re.compile(r"(https?://[^\s/?#\"'<>]{1,200}[^\s?#\"'<>]{0,500})[?#][^\s\"'<>]*"), r"\1"),
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d(?:[t ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:z|[+-]\d\d:?\d\d)?)?"), "<time>"),
    (re.compile(r"\b\d\d?:\d\d(?::\d\d(?:[.,]\d+)?)?\b"), "<time>"),
    (re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+"), "<email>"),
    (re.compile(r"'[^'\n]{0,200}'|\"[^\"\n]{0,200}\"|`[^`\n]{0,200}`"), "<value>"),
    (re.compile(r"\b0x[0-9a-f]+\b"), "<id>"),
    (re.compile(r"\b[a-z0-9_-]{8,}"), _id_or_word),
    (re.compile(r"[+-]?\d+(?:[.,]\d+)*"), "<n>"),
    (re.compile(r"\s+"), " "),
)


def normalise(message: str) -> str:
    """The message with what varies from case to case taken out."""
    text = message[:_MAX_MESSAGE].lower()
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.strip()


def fingerprint(error_class: str, message: str) -> str:
    """Sixteen hex digits that are equal for the same kind of failure."""
    text = f"{error_class}\n{normalise(message)}"
    return hashlib.blake2b(text.encode("utf-8", errors="replace"), digest_size=8).hexdigest()
