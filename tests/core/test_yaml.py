"""YAML as version 1.2 has it: what looks like JSON means what it means in JSON."""

import time

import pytest

from core.yaml import YamlError, decode


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("017", 17),
        ("08", 8),
        ("0o17", 15),
        ("0xFf", 255),
        ("+4", 4),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("=", "="),
        ("~", None),
        ("18446744073709551615", 2**64 - 1),
        ('{"a": [1, 2.5, null, "x"]}', {"a": [1, 2.5, None, "x"]}),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = decode(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        "18446744073709551616",
        "-9223372036854775809",
        ".inf",
        "-.INF",
        ".nan",
        "1e999",
        "9" * 5_000,
        "!!int x",
        '"\\ud800"',
    ],
)
def test_what_json_does_not_have(text: str) -> None:
    with pytest.raises(YamlError):
        decode(f"a: {text}")


@pytest.mark.parametrize("text", ["[" * 200_000, "- " * 200_000 + "x", "? " * 200_000, "{a: " * 100_000, "a: &a [*a]"])
def test_deep_texts_end_soon(text: str) -> None:
    begun = time.perf_counter()
    with pytest.raises(YamlError):
        decode(text)
    assert time.perf_counter() - begun < 1


def test_a_key_that_stands_twice_is_refused_where_it_stands() -> None:
    with pytest.raises(YamlError, match=r"the key 'a' stands there twice in line 3, column 3"):
        decode("x:\n  a: 1\n  a: 2\n")


def test_merged_keys_may_be_overridden() -> None:
    text = "base: &base {a: 1, b: 2}\nmore: &more {<<: *base, b: 3}\nlast: {<<: *more, a: 4}\n"
    assert decode(text)["last"] == {"a": 4, "b": 3}
