"""YAML text to JSON values: YAML 1.2's idea of scalars, and bounds against texts that explode."""

import math
import re
from typing import Any

import yaml

from core.json import MAX_DEPTH, JsonValue, depth

MAX_NODES = 500_000
"""Scalars, lists and maps in a document after its aliases are followed."""


class YamlError(ValueError):
    """The text is not YAML, or breaks a bound. The message is fit for the caller's eyes."""


class _Loader(yaml.CSafeLoader):
    """Safe loading with the scalars of YAML 1.2: `on`, `yes`, dates and `12:30` stay text, `1e3` is a number."""


_INTEGERS = range(-(2**63), 2**64)
"""What JSON text keeps exactly here."""
_LONGEST_NUMBER = 400
_INT = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_REPLACED = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp", "value")}

_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _construct_int(loader: Any, node: Any) -> int:
    text = _number_text(loader, node)
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text[2:] if base != 10 else text, base)


def _construct_float(loader: Any, node: Any) -> float:
    return float(_number_text(loader, node).replace(".inf", "inf").replace(".nan", "nan"))


def _number_text(loader: Any, node: Any) -> str:
    text: str = loader.construct_scalar(node).lower()
    if len(text) > _LONGEST_NUMBER:
        raise YamlError("a number is too large; put it in quotes")
    return text


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def decode(text: bytes | str) -> JsonValue:
    """Parse one YAML document.

    Raises:
        YamlError: malformed text, a tag that is not of JSON's types, nesting deeper than 100, or too many values.
    """
    try:
        _check_nesting(text)
        value = _load(text)
    except YamlError:
        raise
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


def _load(text: bytes | str) -> Any:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _check_keys(root)
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _check_keys(root: yaml.Node) -> None:
    """Refuse a key that stands twice in a map: one of the two would be lost without a word."""
    seen: set[int] = set()
    rest = [root]
    while rest:
        node = rest.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            rest.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in keys and key.value != "<<":
                    where = f"line {key.start_mark.line + 1}, column {key.start_mark.column + 1}"
                    raise YamlError(f"not valid YAML: the key {key.value!r} stands there twice in {where}")
                keys.add(str(key.value))
                rest.append(value)


def _check_nesting(text: bytes | str) -> None:
    """Bound the nesting before anything recursive (and written in C) works on the text."""
    deep = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            deep += 1
            if deep > MAX_DEPTH:
                raise YamlError(f"nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            deep -= 1


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
        else:
            _check_scalar(one)


def _check_scalar(value: Any) -> None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise YamlError("a text has half of a surrogate pair")
    elif isinstance(value, int):
        if value not in _INTEGERS:
            raise YamlError("a number is too large; put it in quotes")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise YamlError("a number is infinite or none at all, which JSON does not have")
    elif value is not None:
        raise YamlError(f"{type(value).__name__} values are not allowed")
