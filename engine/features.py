"""Turns a step's input into the few figures that tell good calls from bad ones: sizes, numbers, short plain words.

Features go into traces and are kept long, so nothing that could be a secret, a person or free text gets through:
what is not plainly harmless is left out. The work is bounded, however large the input is.
"""

import math
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

from core.json import JsonValue

MAX_FEATURES = 64
MAX_VISITED = 300
"""Values that are looked at, at most."""
MAX_DEPTH = 3
_MAX_KEY = 40

_WORD = re.compile(r"[A-Za-z0-9_.:/-]{1,32}\Z")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}\Z")
_ID_LIKE = re.compile(r"\d{5,}|\A[0-9a-fA-F-]{12,}\Z|\A[A-Z2-7]{16,}\Z|://")
_SWITCH = re.compile(r"[A-Za-z]\d|\d[A-Za-z]")
_KNOWN_PREFIX = re.compile(
    r"(?:sk|pk|rk|ghp|gho|xox[abp]|akia|eyj|bearer|basic|glpat|whsec)(?:[_.-]|\Z)", re.IGNORECASE
)
_TOKEN_START = re.compile(r"AKIA|eyJ|AIza|ya29|ghp_|xox")
_SECRET_NAME = re.compile(
    r"pass(?:word|wd|phrase|code)?(?:[^a-z]|\Z)|pwd|token|secret|authoriz|authentic|\Aauth\Z|api[_-]?key|access[_-]?key"
    r"|private[_-]?key|cookie|credential|signature|session|\Apin\Z|cvv|cvc|iban|card[_-]?n|ssn",
    re.IGNORECASE,
)
_DATE = re.compile(r"(\d{4})([-/.])(\d\d?)\2(\d\d?)|(\d\d?)([-/.])(\d\d?)\6(\d{4}|\d\d)")


def features(value: JsonValue, secret_fields: Collection[str] = ()) -> tuple[dict[str, float], dict[str, str]]:
    """Numeric and text features of a step's resolved parameters, named by their path (`body.amount`).

    Numbers and booleans stand for themselves, a text gives `name.length` and, when it is a short plain word, itself; a
    date gives `name.shape` (`dd/mm/yyyy`); a list gives `name.size`.

    Args:
        value: the parameters; values that are not plain JSON (revealed or unrevealed secrets) are passed over.
        secret_fields: top-level names that may hold secrets; nothing below them is looked at.
    """
    numbers: dict[str, float] = {}
    texts: dict[str, str] = {}
    if type(value) is not dict:
        return numbers, texts
    left = MAX_VISITED
    level: list[tuple[str, Mapping[Any, Any]]] = [("", value)]
    # Level by level, so that what is near the top is not lost to one large branch.
    for depth in range(MAX_DEPTH):
        inner: list[tuple[str, Mapping[Any, Any]]] = []
        for prefix, mapping in level:
            for key, one in mapping.items():
                left -= 1
                if left < 0 or len(numbers) + len(texts) >= MAX_FEATURES:
                    return numbers, texts
                if not _open(key) or (depth == 0 and key in secret_fields):
                    continue
                if type(one) is dict:
                    inner.append((f"{prefix}{key}.", one))
                else:
                    _leaf(prefix + key, one, numbers, texts)
        level = inner
    return numbers, texts


def _leaf(name: str, value: Any, numbers: dict[str, float], texts: dict[str, str]) -> None:
    # Exact types: a secret may be a kind of str.
    kind = type(value)
    if kind is str:
        _text(name, value, numbers, texts)
    elif kind is list:
        numbers[f"{name}.size"] = float(len(value))
    elif kind is bool or kind is int or kind is float:
        _number(name, value, numbers)


def _open(key: Any) -> bool:
    return type(key) is str and len(key) <= _MAX_KEY and _named_openly(key)


@lru_cache(maxsize=4_096)  # workflows use the same few names over and over
def _named_openly(key: str) -> bool:
    return _NAME.match(key) is not None and _SECRET_NAME.search(key) is None


def _number(name: str, value: float, numbers: dict[str, float]) -> None:
    try:
        figure = float(value)
    except OverflowError:
        return
    if math.isfinite(figure):
        numbers[name] = figure


def _text(name: str, value: str, numbers: dict[str, float], texts: dict[str, str]) -> None:
    length = len(value)
    numbers[f"{name}.length"] = float(length)
    if length > 32 or len(numbers) + len(texts) >= MAX_FEATURES:
        return
    date = _DATE.match(value)
    if date:
        texts[f"{name}.shape"] = _shape(value, date)
    elif _plain(value):
        texts[name] = value


def _plain(value: str) -> bool:
    """Whether a text is a word from a small set (a currency, a country, a plan), not an id, token or code."""
    if not _WORD.match(value) or _ID_LIKE.search(value) or _KNOWN_PREFIX.match(value) or _TOKEN_START.match(value):
        return False
    if len(value) < 8:
        return True
    # Words keep their letters and digits, and their cases, apart; tokens mix them.
    digits = sum(map(str.isdigit, value))
    if digits > 4 or len(_SWITCH.findall(value)) > 2:
        return False
    turns = sum(a.islower() and b.isupper() for a, b in pairwise(value))
    return turns <= 2 and not _scattered(value)


def _scattered(value: str) -> bool:
    """Whether the characters are spread like random ones. Words of 16 letters and more repeat some, or have breaks."""
    run = max(map(len, re.split(r"[_.:/-]", value)))
    if run < 12:
        return False
    vowels = sum(character in "aeiouyAEIOUY" for character in value)
    return vowels * 5 < sum(map(str.isalpha, value)) or run > 20


def _shape(value: str, date: re.Match[str]) -> str:
    """How a date is written. Day first, unless the figures rule it out: one way of writing should have one name."""
    rest = "" if date.end() == len(value) else "+time"
    if date[1]:
        return f"yyyy{date[2]}mm{date[2]}dd{rest}"
    separator, year = date[6], "y" * len(date[8])
    first, second = ("mm", "dd") if int(date[7]) > 12 else ("dd", "mm")
    return f"{first}{separator}{second}{separator}{year}{rest}"
