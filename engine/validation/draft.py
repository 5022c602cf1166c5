"""A step as far as it can be read: a fault in one of its fields must not hide what is wrong with the others."""

from dataclasses import dataclass

from core.json import JsonValue


@dataclass(frozen=True, slots=True)
class StepDraft:
    """What a raw step says, without what has the wrong shape.

    Attributes:
        path: JSON path of the step.
        needs: names with the path of each.
        fallback: the name in `on_error.use`.
        continues: whether the step itself says `on_error: continue`; None when it does not say.
        keys: the expressions that say which calls share a cached result or a limit, with the path of each.
        weights: of `route`, as written.
        cached: whether the step has a `cache`.
    """

    path: str
    id: str | None
    node: str | None
    params: dict[str, JsonValue] | None
    needs: tuple[tuple[str, str], ...]
    when: JsonValue
    foreach: JsonValue
    fallback: str | None
    continues: bool | None
    keys: tuple[tuple[str, str], ...] = ()
    weights: dict[str, JsonValue] | None = None
    cached: bool = False


def read_steps(document: dict[str, JsonValue]) -> list[StepDraft]:
    """The steps that are objects at all."""
    steps = document.get("steps")
    if not isinstance(steps, list):
        return []
    return [_read(f"$.steps[{index}]", raw) for index, raw in enumerate(steps) if isinstance(raw, dict)]


def _read(path: str, raw: dict[str, JsonValue]) -> StepDraft:
    params = raw.get("with", {})
    needs = raw.get("needs", ())
    on_error = raw.get("on_error")
    if isinstance(needs, str):
        # The shape is reported; what it means is plain.
        names: tuple[tuple[str, str], ...] = ((f"{path}.needs", needs),)
    else:
        listed = enumerate(needs) if isinstance(needs, list) else ()
        names = tuple((f"{path}.needs[{index}]", name) for index, name in listed if isinstance(name, str))
    return StepDraft(
        path=path,
        id=_text(raw.get("id")),
        node=_text(raw.get("node")),
        params=params if isinstance(params, dict) else None,
        needs=names,
        when=raw.get("when", True),
        foreach=raw.get("foreach"),
        fallback=_text(on_error.get("use")) if isinstance(on_error, dict) else None,
        continues=None if on_error is None else on_error == "continue",
        keys=tuple(
            (f"{path}.{name}.key", key) for name in ("cache", "limit") if (key := _text(_member(raw, name, "key")))
        ),
        weights=weights if isinstance(weights := _member(raw, "route", "weights"), dict) else None,
        cached=raw.get("cache") is not None,
    )


def _member(raw: dict[str, JsonValue], name: str, key: str) -> JsonValue:
    part = raw.get(name)
    return part.get(key) if isinstance(part, dict) else None


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) and value else None
