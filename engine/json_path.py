"""Where something stands in a document, written as people read it: `$.steps[2].with["content-type"]`."""

from collections.abc import Iterable

from engine.expression.template import step_of


def child(path: str, key: str | int) -> str:
    """The path of one element or member of what stands at `path`."""
    return f"{path}[{key}]" if isinstance(key, int) else path + step_of(key)


def join(root: str, keys: Iterable[str | int]) -> str:
    """The path that `keys` lead to, beginning at `root`."""
    for key in keys:
        root = child(root, key)
    return root


def contains(outer: str, inner: str) -> bool:
    """Whether the value at path `inner` is the one at `outer` or a part of it."""
    return inner.startswith(outer) and (len(inner) == len(outer) or inner[len(outer)] in ".[")
