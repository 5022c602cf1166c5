"""Reads the operations of a patch, with a fault for each that has the wrong shape. Pure."""

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from core.errors import Fault
from core.json import JsonValue
from core.patch import MAX_OPERATIONS, Operation, operation_adapter
from engine.json_path import join
from engine.json_schema import kind_of
from engine.wording import did_you_mean, listed, nearest, sentence

_OPERATIONS = ("add_step", "remove_step", "update_params", "replace_node")


def read_operations(operations: Sequence[JsonValue]) -> tuple[list[Operation], list[Fault]]:
    """The operations that are right, and what is wrong with the others."""
    if not operations or len(operations) > MAX_OPERATIONS:
        said = f"a patch has 1 to {MAX_OPERATIONS} operations, not {len(operations)}"
        return [], [Fault("$.operations", "bad_value", sentence(said))]
    read: list[Operation] = []
    faults: list[Fault] = []
    for index, raw in enumerate(operations):
        try:
            read.append(operation_adapter.validate_python(raw))
        except ValidationError as error:
            faults += _shape_faults(f"$.operations[{index}]", raw, error)
    return read, faults


def _shape_faults(path: str, raw: JsonValue, error: ValidationError) -> Iterator[Fault]:
    if not isinstance(raw, dict):
        yield Fault(path, "wrong_type", f"An operation is an object with `op`, not {kind_of(raw)}.")
        return
    name = raw.get("op")
    if name not in _OPERATIONS:
        suggestion = nearest(name, _OPERATIONS) if isinstance(name, str) else None
        said = sentence(f"`op` is one of {listed(_OPERATIONS)}{did_you_mean(suggestion)}")
        yield Fault(f"{path}.op", "bad_value", said, suggestion)
        return
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        keys = one["loc"][1:]  # the first is the kind of operation
        said = one["msg"]
        code = {"missing": "missing_field", "extra_forbidden": "unknown_field"}.get(one["type"], "bad_value")
        yield Fault(join(path, keys), code, sentence(f"`{keys[-1] if keys else 'op'}`: {said[:1].lower()}{said[1:]}"))
