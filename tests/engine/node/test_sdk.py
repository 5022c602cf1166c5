import json
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

import jsonschema_rs
import pytest
from pydantic import BaseModel, Field

from core.duration import Duration
from core.errors import ErrorClass, StepError
from core.json import JsonValue
from core.manifest import Effect, NodeStatus
from engine.node.sdk import ABSENT, Cel, Lane, NodeVersion, Secret, StepContext, Tunable, node
from tests.engine.node.step_context import make_context


class Receipt(BaseModel):
    id: str
    day: date


@node("payment.charge", version="1.2.0", effect="idempotent", category="payment", metrics=("fee",))
async def charge(
    context: StepContext,
    amount: Annotated[float, Field(gt=0)],
    token: Annotated[str, Secret],
    currency: Literal["EUR", "USD"] = "EUR",
    attempts: Annotated[int, Tunable(low=1, high=10)] = 3,
    rule: Annotated[str, Cel] = "true",
    note: JsonValue = ABSENT,
    from_: str = "",
) -> Receipt:
    """Charge a card.

    Takes money once
    for each key.

    Args:
        amount: In units of the currency,
            never in cents.
        currency (str): Three letters.
        from_: Who pays.

    Returns:
        A receipt.
    """
    context.report(fee=0.3)
    return Receipt(id=f"{currency}:{note is ABSENT}:{from_}", day=date(2026, 1, 2))


def test_the_manifest_comes_from_signature_and_docstring() -> None:
    manifest = charge.manifest
    assert (manifest.name, manifest.version, manifest.title) == ("payment.charge", "1.2.0", "Charge a card")
    assert manifest.description == "Takes money once\nfor each key."
    assert manifest.effect is Effect.IDEMPOTENT
    assert manifest.secret_fields == ("token",)
    assert manifest.expression_fields == ("rule",)
    assert manifest.tunables == {"attempts": Tunable(low=1, high=10)}
    schema = manifest.input_schema
    assert sorted(schema["required"]) == ["amount", "token"]
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert "context" not in properties
    assert properties["amount"]["exclusiveMinimum"] == 0
    assert properties["amount"]["description"] == "In units of the currency, never in cents."
    assert properties["currency"] | {"title": ""} == {
        "enum": ["EUR", "USD"],
        "type": "string",
        "default": "EUR",
        "description": "Three letters.",
        "title": "",
    }
    assert properties["attempts"]["type"] == "integer"
    assert properties["from"]["description"] == "Who pays."
    assert "default" not in properties["note"]
    assert set(manifest.output_schema["required"]) == {"id", "day"}
    json.dumps(manifest.model_dump(mode="json"))
    validator = jsonschema_rs.validator_for(schema)
    assert validator.is_valid({"amount": 3, "token": "t", "note": None})
    assert not validator.is_valid({"amount": 0, "token": "t"})


async def test_a_call_validates_injects_and_gives_json() -> None:
    context = make_context()
    assert charge.lane is Lane.ASYNC
    output = await charge({"amount": 2, "token": "t", "from": "me", "note": None}, context)
    assert output == {"id": "EUR:False:me", "day": "2026-01-02"}
    assert context.reported.metrics == {"fee": 0.3}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"token": "hunter22"}, ["`amount`", "missing", "`with`"]),
        ({"amount": "hunter22", "token": "t"}, ["`amount`", "number"]),
        ({"amount": 1, "token": "t", "curency": "EUR"}, ["`curency`", "`currency`"]),
        ({"amount": 1, "token": "t", "currency": "hunter22"}, ["`currency`", "'EUR' or 'USD'"]),
        ({"amount": -1, "token": "t"}, ["`amount`", "greater than 0"]),
    ],
)
async def test_wrong_parameters_name_field_reason_and_way_out(params: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(StepError) as raised:
        await charge(params, make_context())
    assert raised.value.error_class is ErrorClass.INVALID_INPUT
    for word in words:
        assert word in raised.value.message
    assert "hunter22" not in raised.value.message


def test_additional_parameters_when_the_function_takes_them() -> None:
    @node("a.b", version="1.0.0", lane="inline")
    def collect(first: int, **others: JsonValue) -> dict[str, JsonValue]:
        return {"first": first, **others}

    assert collect.call({"first": "1", "x": [2]}, make_context()) == {"first": 1, "x": [2]}
    assert collect.manifest.input_schema["additionalProperties"] is True


def test_a_return_value_of_another_type_is_an_error_of_the_node() -> None:
    @node("a.b", version="1.0.0", lane="inline")
    def wrong() -> Receipt:
        return 5  # type: ignore[return-value]

    with pytest.raises(StepError) as raised:
        wrong.call({}, make_context())
    assert raised.value.error_class is ErrorClass.INTERNAL


def test_a_timer_says_when_to_wake() -> None:
    @node("a.b", version="1.0.0", lane="timer")
    def wait(seconds: Duration) -> float:
        return seconds

    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert wait.wake_at({"seconds": "1m"}, start) == start + timedelta(minutes=1)


async def test_process_and_timer_nodes_refuse_the_event_loop() -> None:
    with pytest.raises(TypeError, match="process lane"):
        await plain({"a": 1}, make_context())


@node("a.plain", version="1.0.0")
def plain(a: int) -> int:
    return a


def _no_annotation(a) -> int:  # type: ignore[no-untyped-def]
    return 1


def _no_return(a: int):  # type: ignore[no-untyped-def]
    return 1


def _positional(*a: int) -> int:
    return 1


def _typed_rest(**a: int) -> int:
    return 1


def _cel_number(a: Annotated[int, Cel]) -> int:
    return 1


def _unknown_doc(a: int) -> int:
    """T.

    Args:
        b: what?
    """
    return 1


def _bad_range(a: Annotated[int, Tunable(low=5, high=1)]) -> int:
    return 1


def _bad_default(a: Annotated[int, Tunable(low=1, high=5)] = 9) -> int:
    return 1


def _no_schema(a: NodeVersion) -> int:
    return 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (_no_annotation, "'a' needs an annotation"),
        (_no_return, "return value needs"),
        (_positional, "passed by name"),
        (_typed_rest, "JsonValue"),
        (_cel_number, "must be a str"),
        (_unknown_doc, "'b', which is not a parameter"),
        (_bad_range, "low below high"),
        (_bad_default, "outside its range"),
        (_no_schema, "type cannot be validated|no JSON Schema"),
    ],
)
def test_a_signature_that_cannot_be_a_node_is_refused_at_decoration(function: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        node("a.b", version="1.0.0")(function)


@pytest.mark.parametrize(("name", "version"), [("9a", "1.0.0"), ("a b", "1.0.0"), ("a", "1.0"), ("a", "01.0.0")])
def test_bad_names_and_versions_are_refused(name: str, version: str) -> None:
    with pytest.raises(TypeError):
        node(name, version=version)


def test_lanes_must_fit_the_function() -> None:
    async def waits() -> int:
        return 1

    def local() -> int:
        return 1

    with pytest.raises(TypeError, match="plain `def`"):
        node("a", version="1.0.0", lane="inline")(waits)
    with pytest.raises(TypeError, match="top of its module"):
        node("a", version="1.0.0")(local)


def test_status_changes_and_nothing_else() -> None:
    deprecated = plain.with_status(NodeStatus.DEPRECATED)
    assert deprecated.manifest.status is NodeStatus.DEPRECATED
    assert plain.manifest.status is NodeStatus.PRODUCTION
    assert deprecated.run is plain.run
