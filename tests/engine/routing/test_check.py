from typing import Any

import pytest

from core.errors import Invalid
from core.manifest import NodeStatus
from core.route import Route
from core.spec import StepRoute
from engine.routing.check import check_route, step_route_faults
from tests.engine.routing.room import version, versions

A, B = {"version": "1.0.0", "weight": 0.9}, {"version": "2.0.0", "weight": 0.1}


def exact(document: dict[str, Any]) -> Route:
    return check_route(Route.model_validate(document), versions())


def faults(document: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    with pytest.raises(Invalid) as caught:
        exact(document)
    return [(one.path, one.code, one.suggestion) for one in caught.value.faults]


def test_labels_become_numbers_and_percent_become_shares() -> None:
    route = exact(
        {
            "arms": [{"version": "stripe", "weight": 90, "fallback": "adyen"}, {"version": "adyen", "weight": 10}],
            "rules": [{"when": "{{ context.country == 'DE' }}", "weights": {"adyen": 100}}],
        }
    )
    assert [(arm.version, arm.label, arm.weight, arm.fallback) for arm in route.arms] == [
        ("1.0.0", "stripe", 0.9, "2.0.0"),
        ("2.0.0", "adyen", 0.1, None),
    ]
    assert (route.rules[0].when, route.rules[0].weights) == ("context.country == 'DE'", {"2.0.0": 1.0})
    assert check_route(route, versions()) == route


def test_versions_that_only_fallbacks_and_rules_name_become_arms() -> None:
    route = exact(
        {
            "arms": [{"version": "1.0.0", "fallback": "2.0.0"}],
            "rules": [{"when": "hour < 6", "weights": {"3.0.0": 1}}],
        }
    )
    assert [(arm.version, arm.weight) for arm in route.arms] == [("1.0.0", 1.0), ("2.0.0", 0.0), ("3.0.0", 0.0)]


def test_arms_without_weights_share_alike() -> None:
    assert [arm.weight for arm in exact({"arms": [{"version": "1.0.0"}, {"version": "2.0.0"}]}).arms] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"arms": [{**A, "version": "1.0.1"}, B]}, [("$.arms[0].version", "unknown_version", "1.0.0")]),
        ({"arms": [A, {**B, "fallback": "strip"}]}, [("$.arms[1].fallback", "unknown_version", "stripe")]),
        ({"arms": [A, {**B, "weight": 0.2}]}, [("$.arms", "bad_sum", None)]),
        ({"arms": [A, {"version": "2.0.0"}]}, [("$.arms[1].weight", "missing_field", None)]),
        ({"arms": [A, {**B, "version": "stripe"}]}, [("$.arms[1].version", "duplicate", None)]),
        ({"arms": [{**A, "fallback": "stripe"}, B]}, [("$.arms[0].fallback", "cycle", None)]),
        ({"arms": [{**A, "fallback": "adyen"}, {**B, "fallback": "1.0.0"}]}, [("$.arms[0].fallback", "cycle", None)]),
        (
            {"arms": [A, B], "rules": [{"when": "hour >", "weights": {"adyen": 1}}]},
            [("$.rules[0].when", "bad_expression", None)],
        ),
        (
            {"arms": [A, B], "rules": [{"when": "context.vip || inputs.x", "weights": {"adyen": 0.3, "strpe": 0.7}}]},
            [
                ("$.rules[0].when", "unknown_reference", "input"),
                ("$.rules[0].weights.strpe", "unknown_version", "stripe"),
            ],
        ),
        (
            {"arms": [A, B], "rules": [{"when": "true", "weights": {"adyen": 2}}]},
            [("$.rules[0].weights", "bad_sum", None)],
        ),
        (
            {"arms": [{"version": one} for one in ("1.0.0", "2.0.0", "3.0.0")], "floor": 0.4},
            [("$.floor", "bad_value", None)],
        ),
    ],
)
def test_faults(document: dict[str, Any], found: list[tuple[str, str, str | None]]) -> None:
    assert faults(document) == found


@pytest.mark.parametrize("status", [NodeStatus.DRAFT, NodeStatus.DEPRECATED])
def test_only_staging_and_production(status: NodeStatus) -> None:
    known = [version("1.0.0"), version("1.1.0", status=NodeStatus.STAGING), version("1.2.0", status=status)]
    route = Route.model_validate({"arms": [{"version": "1.0.0", "weight": 1}, {"version": "1.1.0", "weight": 0}]})
    assert check_route(route, known).arms[1].version == "1.1.0"
    with pytest.raises(Invalid, match="1 fault"):
        check_route(Route.model_validate({"arms": [{"version": "1.2.0"}]}), known)


def test_of_equal_labels_the_newest_that_may_be_used() -> None:
    known = [version("1.0.0", "stripe"), version("1.1.0", "stripe"), version("1.2.0", "stripe", NodeStatus.DRAFT)]
    assert check_route(Route.model_validate({"arms": [{"version": "stripe"}]}), known).arms[0].version == "1.1.0"


def test_weights_of_a_step() -> None:
    assert not list(step_route_faults(StepRoute(weights={"stripe": 30, "adyen": 70}), versions(), "$.steps[0].route"))
    found = list(step_route_faults(StepRoute(weights={"strip": 1}), versions(), "$.steps[0].route"))
    assert [(one.path, one.suggestion) for one in found] == [("$.steps[0].route.weights.strip", "stripe")]
