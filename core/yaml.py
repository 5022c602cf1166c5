"""YAML text to JSON values: YAML 1.2's idea of scalars, and bounds against texts that explode."""

import re
from typing import Any

import yaml

from core.json import MAX_DEPTH, JsonValue, depth

MAX_NODES = 500_000
"""Scalars, lists and maps in a document after its aliases are followed."""


class YamlError(ValueError):
    """The text is not YAML, or breaks a bound. The message is fit for the caller's eyes."""


class _Loader(yaml.SafeLoader):
    """Safe loading with the scalars of JSON: `on`, `yes` and dates stay text (YAML 1.2 core schema)."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def decode(text: bytes | str) -> JsonValue:
    """Parse one YAML document.

    Raises:
        YamlError: malformed text, a tag that is not of JSON's types, nesting deeper than 100, or too many values.
    """
    try:
        value: Any = yaml.load(text, Loader=_Loader)  # noqa: S506 -- a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise YamlError(f"not valid YAML: {error.problem or error.context}{where}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(f"not valid YAML: {error}") from None
    except RecursionError:
        raise YamlError(f"nested deeper than {MAX_DEPTH} levels") from None
    _check(value)
    if depth(value) > MAX_DEPTH:
        raise YamlError(f"nested deeper than {MAX_DEPTH} levels")
    return value


def _check(value: Any) -> None:
    """Bound what aliases blow up to, and refuse what JSON does not have."""
    count = 0
    rest = [value]
    while rest:
        one = rest.pop()
        count += 1
        if count > MAX_NODES:
            raise YamlError(f"more than {MAX_NODES} values")
        if isinstance(one, dict):
            for key in one:
                if not isinstance(key, str):
                    raise YamlError(f"the key {key!r} is not text; put it in quotes")
            rest.extend(one.values())
        elif isinstance(one, list):
            rest.extend(one)
        elif not isinstance(one, (str, int, float, bool, type(None))):
            raise YamlError(f"{type(one).__name__} values are not allowed")
