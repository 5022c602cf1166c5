from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from core.trigger import Trigger
from engine.triggers.naming import names_of

triggers: TypeAdapter[list[Trigger]] = TypeAdapter(list[Trigger])


def names(*documents: dict[str, Any]) -> list[str]:
    return names_of(triggers.validate_python(list(documents)))


CRON = {"type": "cron", "schedule": "*/5 * * * *"}


def test_a_name_is_made_from_what_the_trigger_says() -> None:
    found = names(CRON, {"type": "webhook", "path": "shop/charge"}, {"type": "event", "event": "order.paid"})
    assert found == [found[0], "webhook-shop.charge", "order.paid"]
    assert found[0].startswith("cron-")


def test_a_name_does_not_depend_on_the_place() -> None:
    manual = {"type": "manual", "name": "by_hand"}
    assert names(CRON, manual) == names(manual, CRON)[::-1]


def test_it_stays_when_other_things_change() -> None:
    assert names(CRON) == names({**CRON, "missed": "all", "input": {"x": 1}, "enabled": False})
    assert names(CRON) != names({**CRON, "timezone": "Europe/Berlin"})


@given(
    st.lists(
        st.sampled_from(
            [
                CRON,
                {**CRON, "missed": "all"},
                {"type": "event", "name": "a"},
                {"type": "event", "event": "a"},
                {"type": "manual"},
                {"type": "manual", "name": "manual"},
                {"type": "webhook", "path": "a/b" * 60},
            ]
        ),
        max_size=12,
    )
)
def test_no_two_are_equal_and_all_are_names(documents: list[dict[str, Any]]) -> None:
    found = names(*documents)
    assert len(set(found)) == len(found) == len(documents)
    TypeAdapter(list[Trigger]).validate_python([{"type": "manual", "name": one} for one in found])
