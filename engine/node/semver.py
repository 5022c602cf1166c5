"""Semantic versions (semver.org 2.0.0) and the ranges `1.2.0`, `^1.2` and `~1.2` that a step may ask for."""

import re
from dataclasses import dataclass
from functools import total_ordering

_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
_VERSION = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+([0-9A-Za-z.-]+))?"
)
_RANGE = re.compile(rf"([\^~])({_NUMBER})(?:\.({_NUMBER}))?(?:\.({_NUMBER}))?")


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """`major.minor.patch[-pre][+build]`, ordered as semver says; the build is no part of order or equality."""

    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Version":
        """Raises ValueError when the text is not a full semantic version."""
        match = _VERSION.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:60]!r} is not a semantic version; write for example 1.0.0")
        major, minor, patch, pre, _ = match.groups()
        return cls(int(major), int(minor), int(patch), tuple(pre.split(".")) if pre else ())

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        return f"{text}-{'.'.join(self.pre)}" if self.pre else text

    def __lt__(self, other: "Version") -> bool:
        return self._order() < other._order()

    def _order(self) -> tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]:
        # A release stands above its pre-releases; numeric identifiers stand below textual ones.
        identifiers = tuple((not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in self.pre)
        return (self.major, self.minor, self.patch, not self.pre, identifiers)


@dataclass(frozen=True, slots=True)
class Range:
    """Versions from `low` (inclusive) to `high` (exclusive), releases only."""

    low: Version
    high: Version

    @classmethod
    def parse(cls, text: str) -> "Range":
        """`^1.2` is up to the next major (below 1.0: the next minor), `~1.2` up to the next minor.

        Raises:
            ValueError: the text is not such a range.
        """
        match = _RANGE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:60]!r} is not a version or range; write for example 1.2.0, ^1 or ~1.2")
        sign, major_text, minor_text, patch_text = match.groups()
        major, minor, patch = int(major_text), int(minor_text or 0), int(patch_text or 0)
        low = Version(major, minor, patch)
        if minor_text is None or (sign == "^" and major > 0):
            return cls(low, Version(major + 1, 0, 0))
        if sign == "^" and minor == 0 and patch_text is not None:
            return cls(low, Version(0, 0, patch + 1))
        return cls(low, Version(major, minor + 1, 0))

    def __contains__(self, version: Version) -> bool:
        return not version.pre and self.low <= version < self.high
