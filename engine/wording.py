"""How faults are put into words: the nearest right name for a mistyped one, and whole sentences. Pure."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

_CLOSE_ENOUGH = 0.6
_MAX_CANDIDATES = 300
"""Names that are compared in full; of more, those of the most similar length. Thousands of faults stay affordable."""
_MAX_LENGTH = 200


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name in `known` that is most like `name`; None when none is much like it.

    A difference in case, or the last part of a dotted name (`request` for `http.request`), counts as very like.
    """
    if not name or len(name) > _MAX_LENGTH:
        return None
    candidates = [one for one in known if one != name]
    folded = name.casefold()
    for one in candidates:
        if one.casefold() == folded:
            return one
    if len(candidates) > _MAX_CANDIDATES:
        candidates = sorted(candidates, key=lambda one: abs(len(one) - len(name)))[:_MAX_CANDIDATES]
    close = get_close_matches(folded, [one.casefold() for one in candidates], n=1, cutoff=_CLOSE_ENOUGH)
    if close:
        return next(one for one in candidates if one.casefold() == close[0])
    for one in candidates:
        if folded in one.casefold().split("."):
            return one
    return None


def did_you_mean(suggestion: str | None) -> str:
    """The end of a sentence that offers `suggestion`, or nothing."""
    return f"; did you mean `{suggestion}`?" if suggestion else ""


def sentence(text: str) -> str:
    """The text with a capital at the beginning and a stop at the end."""
    first = text[:1].upper() + text[1:]
    return first if first.endswith((".", "?", "!")) else first + "."


def shortened(text: str, limit: int) -> str:
    """The text on one line, cut to `limit` characters."""
    line = " ".join(text[: limit * 4].split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def listed(names: Sequence[str]) -> str:
    """Up to ten names, quoted."""
    shown = ", ".join(f"`{shortened(one, 60)}`" for one in names[:10])
    return shown + (" …" if len(names) > 10 else "")
