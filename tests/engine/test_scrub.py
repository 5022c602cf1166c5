"""A secret is masked in whatever quoting it comes back."""

import base64
import html
import json
import time
from urllib.parse import quote, quote_plus

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.scrub import MASK, Scrubber

SECRETS = [
    'quote"S3cret\\Value',
    "a b/c&d=e+f%g?h",
    "tokén-äöü €",
    "<script>'x'",
    '\\\\""',
    "line\none\ttwo",
    "plain",
    "****",
]
QUOTES = "\"'"
WAYS = {
    "raw": lambda one: one,
    "json": lambda one: json.dumps(one)[1:-1],
    "json, unicode": lambda one: orjson.dumps(one).decode()[1:-1],
    "json in json": lambda one: json.dumps(json.dumps(one))[3:-3],
    "repr": lambda one: repr([one, QUOTES])[2:-9],
    "repr in json": lambda one: json.dumps(f"<{repr([one, QUOTES])[2:-9]}>")[2:-2],
    "url": lambda one: quote(one, safe=""),
    "url, slash kept": quote,
    "url, form": quote_plus,
    "url, lower case": lambda one: quote(one, safe="").lower() if one == one.lower() else quote(one),
    "url, twice": lambda one: quote(quote(one, safe=""), safe=""),
    "html": html.escape,
    "hex": lambda one: one.encode().hex(),
    "latin": lambda one: one.encode().decode("latin-1"),
}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("way", WAYS)
def test_quotings(secret: str, way: str) -> None:
    text = f"before {WAYS[way](secret)} after"
    assert Scrubber([secret]).text(text) == f"before {MASK} after"


@pytest.mark.parametrize("before", ["", "a", "ab", "ada:", "user:with:colon:"])
@pytest.mark.parametrize("after", ["", "x", "\n"])
def test_base64_inside_other_text(before: str, after: str) -> None:
    secret = "S3cret-password-0001"
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(f"{before}{secret}{after}".encode()).decode()
        masked = Scrubber([secret]).text(encoded)
        assert MASK in masked
        # What is left at the ends stands for one character of the secret at most.
        left = masked.rstrip("=").partition(MASK)
        assert len(left[0]) <= len(base64.b64encode(before.encode())) + 2
        assert len(left[2]) <= len(base64.b64encode(after.encode())) + 2


@given(st.text(min_size=4, max_size=30), st.text(max_size=20), st.text(max_size=20))
@example('a"b0', "", "")
def test_whatever_the_secret_is_it_is_not_in_the_value(secret: str, before: str, after: str) -> None:
    value = {"a": [f"{before}{secret}{after}", json.dumps({"x": secret}), {secret: 1}]}
    masked, encoded = Scrubber([secret]).value(value, orjson.dumps(value))
    assert orjson.loads(encoded) == masked
    if secret not in json.dumps({"x": MASK}) and secret not in MASK + after + before + MASK:
        assert secret not in masked["a"][0].replace(MASK, "\0") or MASK in secret
        assert list(masked["a"][2]) != [secret]


def test_nothing_to_mask_is_the_same_object() -> None:
    value = {"a": "innocent"}
    encoded = orjson.dumps(value)
    assert Scrubber(["S3cret"]).value(value, encoded)[0] is value
    assert Scrubber([]).value(value, encoded)[1] is encoded


def test_numbers_and_several_secrets() -> None:
    scrubber = Scrubber(["12345"]).extended(["123456", "abcd"])
    value = [12345, 123456, "123456", True, "xabcdx"]
    assert scrubber.value(value, orjson.dumps(value))[0] == [MASK, MASK, MASK, True, f"x{MASK}x"]


def test_large_texts_cost_little() -> None:
    scrubber = Scrubber(["S3cret/with-marks", '\\\\"'])
    for text in ("x" * 5_000_000, "\\" * 200_000, "S3cret" * 100_000):
        begun = time.perf_counter()
        scrubber.text(text)
        assert time.perf_counter() - begun < 2
