"""Secrets in resolved values: a handle that shows its name until the last moment.

Nothing that is stored, logged or evaluated ever holds a secret's text: `masked` is what a journal writes, `reveal`
is called by the code that sends the value, and its result is thrown away.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import ErrorClass, StepError
from core.json import JsonValue


@dataclass(frozen=True, slots=True)
class SecretName:
    """The name of a secret, where its text belongs."""

    name: str


@dataclass(frozen=True, slots=True, repr=False)
class SecretText:
    """Text with secrets in it. Shows `{{ secrets.NAME }}` in their places, however it is printed."""

    parts: tuple[str | SecretName, ...]

    def __str__(self) -> str:
        """The text with names in place of secrets."""
        return "".join(part if isinstance(part, str) else f"{{{{ secrets.{part.name} }}}}" for part in self.parts)

    __repr__ = __str__

    @property
    def names(self) -> frozenset[str]:
        """Names of the secrets that the text needs."""
        return frozenset(part.name for part in self.parts if isinstance(part, SecretName))


def reveal(value: JsonValue, secrets: Mapping[str, str]) -> JsonValue:
    """The value with the secrets' text in it. Text that merely looks like an expression stays as it is.

    Raises:
        StepError: class `auth`, naming the secret that does not exist.
    """
    if isinstance(value, SecretText):
        return "".join(part if isinstance(part, str) else _text_of(part.name, secrets) for part in value.parts)
    if isinstance(value, dict):
        return {key: reveal(one, secrets) for key, one in value.items()}
    if isinstance(value, list):
        return [reveal(one, secrets) for one in value]
    return value


def masked(value: JsonValue) -> JsonValue:
    """The value as journals may keep it: each SecretText becomes its text with `{{ secrets.NAME }}`."""
    if isinstance(value, SecretText):
        return str(value)
    if isinstance(value, dict):
        return {key: masked(one) for key, one in value.items()}
    if isinstance(value, list):
        return [masked(one) for one in value]
    return value


def _text_of(name: str, secrets: Mapping[str, str]) -> str:
    try:
        return secrets[name]
    except KeyError:
        raise StepError(
            ErrorClass.AUTH, f"there is no secret named {name}; create it, or mend the name", detail={"secret": name}
        ) from None
