"""A function's signature as a contract: JSON Schemas for people and tools, a fast validator for each call."""

import difflib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Final, NotRequired, Required, get_args, get_origin

import typing_extensions
from pydantic import ConfigDict, Field, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import PydanticSerializationError, to_jsonable_python

from core.errors import ErrorClass, StepError
from core.json import JsonValue
from core.manifest import Tunable
from engine.node.context import StepContext


class Secret:
    """Marks a parameter in which `{{ secrets.NAME }}` may stand: `Annotated[str, Secret]`."""


class Cel:
    """Marks a text parameter that is itself CEL: the node evaluates it, the engine does not resolve it."""


class _Absent(Enum):
    ABSENT = "absent"


ABSENT: Final[Any] = _Absent.ABSENT
"""Default of a parameter for which null is a value of its own."""

_PLAIN = (str, int, float, bool, dict, list, type(None))


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a function takes and gives.

    Attributes:
        context_name: the parameter that receives the StepContext, if any.
        dump: turns a typed return value into JSON values; None when it is made of them already.
    """

    names: tuple[str, ...]
    adapter: TypeAdapter[dict[str, Any]]
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    tunables: dict[str, Tunable] = field(default_factory=dict)
    secret_fields: tuple[str, ...] = ()
    expression_fields: tuple[str, ...] = ()
    context_name: str | None = None
    dump: Callable[[Any], JsonValue] | None = None

    def bind(self, values: Mapping[str, JsonValue]) -> dict[str, Any]:
        """Validated keyword arguments.

        Raises:
            StepError: INVALID_INPUT naming each field (three at most), the reason and the way out, never the value.
        """
        try:
            return self.adapter.validator.validate_python(values)  # type: ignore[no-any-return]
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False, include_context=False)
            sentences = [_sentence(f["type"], f["loc"], f["msg"], self.names) for f in faults[:3]]
            if len(faults) > 3:
                sentences.append(f"and {len(faults) - 3} more.")
            name = ".".join(str(part) for part in faults[0]["loc"])
            raise StepError(ErrorClass.INVALID_INPUT, " ".join(sentences), detail={"field": name}) from None


def read_parameters(function: Callable[..., Any], described: Mapping[str, str]) -> Parameters:
    """Derive the contract of a function.

    Args:
        function: its parameters and its return value must be annotated.
        described: what the docstring says about each parameter.

    Raises:
        TypeError: the signature cannot be a node's; the message says what to change.
    """
    name = function.__qualname__
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"{name}: an annotation cannot be resolved: {error}") from None
    if "return" not in hints:
        raise TypeError(f"{name}: the return value needs an annotation")
    fields: dict[str, _Field] = {}
    context_name: str | None = None
    extra = False
    for parameter in inspect.signature(function).parameters.values():
        _refuse_kind(name, parameter, hints)
        if hints[parameter.name] is StepContext:
            context_name = parameter.name
        elif parameter.kind is parameter.VAR_KEYWORD:
            extra = True
        else:
            fields[parameter.name] = _read_field(name, parameter, hints[parameter.name])
    unknown = set(described) - set(fields) - {context_name} - {p for p in hints if extra}
    if unknown:
        raise TypeError(f"{name}: the docstring describes {sorted(unknown)[0]!r}, which is not a parameter")
    adapter = _adapter(name, fields, extra)
    output_schema, dump = _output(name, hints["return"])
    return Parameters(
        names=tuple(f.wire for f in fields.values()),
        adapter=adapter,
        input_schema=_input_schema(name, adapter, fields, described),
        output_schema=output_schema,
        tunables={f.wire: f.tunable for f in fields.values() if f.tunable},
        secret_fields=tuple(f.wire for f in fields.values() if f.secret),
        expression_fields=tuple(f.wire for f in fields.values() if f.cel),
        context_name=context_name,
        dump=dump,
    )


@dataclass(frozen=True, slots=True)
class _Field:
    wire: str
    annotation: Any
    default: Any
    tunable: Tunable | None
    secret: bool
    cel: bool


def _refuse_kind(name: str, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> None:
    if parameter.kind in {parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY}:
        raise TypeError(f"{name}: parameters are passed by name, so {parameter} cannot be one")
    if parameter.name not in hints:
        raise TypeError(f"{name}: parameter {parameter.name!r} needs an annotation")
    if parameter.kind is parameter.VAR_KEYWORD and hints[parameter.name] is not Any:
        raise TypeError(f"{name}: **{parameter.name} must be annotated JsonValue")


def _read_field(name: str, parameter: inspect.Parameter, hint: Any) -> _Field:
    metadata = list(hint.__metadata__) if get_origin(hint) is Annotated else []
    plain = get_args(hint)[0] if metadata else hint
    # The markers are ours: pydantic would take a Tunable, itself a model, for the parameter's type.
    kept = [one for one in metadata if one not in (Secret, Cel) and not isinstance(one, Tunable)]
    tunable = next((one for one in metadata if isinstance(one, Tunable)), None)
    cel = Cel in metadata
    if cel and plain is not str:
        raise TypeError(f"{name}: the expression parameter {parameter.name!r} must be a str")
    default = parameter.default
    if tunable is not None:
        _refuse_tunable(f"{name}: tunable parameter {parameter.name!r}", tunable, default)
    wire = parameter.name.removesuffix("_")
    if wire != parameter.name:
        kept.append(Field(alias=wire))
    annotation = Annotated[(plain, *kept)] if kept else plain
    return _Field(wire, annotation, default, tunable, Secret in metadata, cel)


def _refuse_tunable(what: str, tunable: Tunable, default: Any) -> None:
    if tunable.choices is not None:
        if default is not inspect.Parameter.empty and default not in tunable.choices:
            raise TypeError(f"{what} has a default outside its choices")
        return
    if tunable.low is None or tunable.high is None or tunable.low >= tunable.high:
        raise TypeError(f"{what} needs choices, or low below high")
    if isinstance(default, (int, float)) and not tunable.low <= default <= tunable.high:
        raise TypeError(f"{what} has a default outside its range")


def _adapter(name: str, fields: Mapping[str, _Field], extra: bool) -> TypeAdapter[dict[str, Any]]:
    # A TypedDict keeps the call cheap (no object per call), and what is absent falls to the function's own default.
    empty = inspect.Parameter.empty
    typed = {
        key: Required[one.annotation] if one.default is empty else NotRequired[one.annotation]
        for key, one in fields.items()
    }
    shape: Any = typing.cast(Any, typing_extensions.TypedDict)("Parameters", typed)
    shape.__pydantic_config__ = ConfigDict(extra="allow" if extra else "forbid")
    try:
        return TypeAdapter(shape)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise TypeError(f"{name}: a parameter's type cannot be validated: {error.message.splitlines()[0]}") from None


def _input_schema(
    name: str, adapter: TypeAdapter[Any], fields: Mapping[str, _Field], described: Mapping[str, str]
) -> dict[str, Any]:
    try:
        schema = adapter.json_schema(mode="validation")
    except PydanticInvalidForJsonSchema as error:
        raise TypeError(f"{name}: a parameter has no JSON Schema: {error.message.splitlines()[0]}") from None
    schema.pop("title", None)
    properties = schema.setdefault("properties", {})
    for key, one in fields.items():
        found = properties[one.wire]
        if key in described:
            found["description"] = described[key]
        if one.default is not inspect.Parameter.empty and one.default is not ABSENT:
            found["default"] = to_jsonable_python(one.default)
        if one.cel:
            found["format"] = "cel"
        if one.secret:
            found["writeOnly"] = True
    return schema


def _output(name: str, hint: Any) -> tuple[dict[str, Any], Callable[[Any], JsonValue] | None]:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
        schema = adapter.json_schema(mode="serialization")
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema, PydanticUserError) as error:
        raise TypeError(f"{name}: the return type has no JSON Schema: {error.message.splitlines()[0]}") from None
    if _is_plain(hint):
        return schema, None

    def dump(value: Any) -> JsonValue:
        try:
            return adapter.dump_python(value, mode="json", warnings="error", by_alias=True)
        except PydanticSerializationError:
            message = f"The node returned {type(value).__name__}, which is not what its return annotation says."
            raise StepError(ErrorClass.INTERNAL, message) from None

    return schema, dump


def _is_plain(hint: Any) -> bool:
    """Whether values of this type are JSON values as they are."""
    if hint is Any or hint in _PLAIN:
        return True
    if typing.is_typeddict(hint) or typing_extensions.is_typeddict(hint):
        return all(_is_plain(one) for one in typing.get_type_hints(hint).values())
    if get_origin(hint) is typing.Literal:
        return all(isinstance(one, (str, int, bool, type(None))) for one in get_args(hint))
    arguments = get_args(hint)
    return bool(arguments) and get_origin(hint) not in {tuple, set, frozenset} and all(map(_is_plain, arguments))


def _sentence(kind: str, where: tuple[int | str, ...], reason: str, names: Iterable[str]) -> str:
    field_name = ".".join(str(part) for part in where) or "with"
    if kind == "missing":
        return f"Parameter `{field_name}` is missing: add it under `with`."
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(field_name, list(names), n=1)
        return f"Parameter `{field_name}` is unknown: " + (f"did you mean `{near[0]}`?" if near else "remove it.")
    reason = reason.removeprefix("Value error, ").removeprefix("Input ")
    return f"Parameter `{field_name}` {reason}: change the value, or convert it in the expression."
