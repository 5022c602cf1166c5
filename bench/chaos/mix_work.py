"""What the server is given to do in the mix: one workflow for each feature, whose result is known beforehand."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LIMIT = 2
"""Calls of the limited step at once."""
RUNS_AT_ONCE = 3
"""Runs of the limited workflow at once."""
EQUAL = 32
"""Runs in a row that ask the cache the same."""
KINDS = ("order", "items", "cached", "limited", "routed", "held", "by_event", "by_webhook")
STARTED_BY_TRIGGER = ("by_event", "by_webhook")


@dataclass(frozen=True, slots=True)
class Job:
    """One run of the mix. `n` is its number, and its input."""

    kind: str
    n: int

    @property
    def outputs(self) -> dict[str, Any]:
        """What the run must give."""
        match self.kind:
            case "order":
                return {"v": self.n + 2}
            case "items":
                return {"v": self.n + 4, "count": 4, "turns": 2}
            case "cached":
                return {"v": self.n // EQUAL + 1}
            case "limited":
                return {"count": 3}
            case _:
                return {"v": self.n + 1}


def jobs(count: int) -> list[Job]:
    """So many runs, of each kind in turn."""
    return [Job(KINDS[index % len(KINDS)], index) for index in range(count)]


def versions(called: str) -> list[dict[str, Any]]:
    """Two versions of a node, for the route."""
    return [
        {
            "name": "mix.add",
            "version": f"{number}.0.0",
            "label": label,
            "base": "http.request",
            "with": {"url": f"{called}/add/{{{{ input.n }}}}?ms=60"},
            "output": {"v": "{{ output.body.v }}"},
            "effect": "idempotent",
        }
        for number, label in ((1, "left"), (2, "right"))
    ]


ROUTE = {"arms": [{"version": "left", "weight": 50, "fallback": "right"}, {"version": "right", "weight": 50}]}


def workflows(called: str) -> list[dict[str, Any]]:
    """All workflows; those that others start come first."""

    def add(step_id: str, n: str, query: str = "", **more: Any) -> dict[str, Any]:
        url = f"{called}/add/{{{{ {n} }}}}{query}"
        return {"id": step_id, "node": "http.request", "with": {"url": url}, **more}

    def spec(name: str, steps: list[dict[str, Any]], outputs: Mapping[str, str], **more: Any) -> dict[str, Any]:
        told = {key: f"{{{{ {value} }}}}" for key, value in outputs.items()}
        return {"name": name, "steps": steps, "outputs": told, **more}

    post = add("post", "steps.paid.output.n", effect="idempotent")
    post["with"]["method"] = "POST"
    order = [
        {"id": "paid", "node": "flow.wait", "with": {"event": "paid", "match": "event.n == input.n"}},
        post,
        {
            "id": "sub",
            "node": "flow.subworkflow",
            "with": {"workflow": "child", "input": {"n": "{{ steps.post.output.body.v }}"}},
        },
    ]
    each = {
        "items": [0, 1, 2, 3],
        "concurrency": 2,
        "input": {"n": "{{ input.n }}"},
        "steps": [add("one", "input.n + input.item", "?ms=40")],
    }
    loop = {"until": "index >= 1", "steps": [add("one", "input.loop.index", "?ms=20")]}
    items = [
        {"id": "each", "node": "flow.foreach", "with": each},
        {"id": "loop", "node": "flow.loop", "needs": ["each"], "with": loop},
    ]
    limited = add(
        "look", "input.n", "?ms=80&gauge=step", foreach=[1, 2, 3], concurrency=3, limit={"concurrency": LIMIT}
    )
    policies = {"concurrency": RUNS_AT_ONCE}
    nap = {"id": "nap", "node": "flow.delay", "with": {"seconds": 0.6}}
    triggered = {"inputs": {"type": "object", "required": ["n"]}}
    event = {"type": "event", "name": "start", "event": "start", "input": {"n": "{{ event.n }}"}}
    cron = {"type": "cron", "name": "minute", "schedule": "* * * * *", "input": {"at": "{{ trigger.scheduled_for }}"}}
    body = "steps.s.output.body.v"
    return [
        spec("child", [add("s", "input.n", "?ms=30")], {"v": body}),
        spec("order", order, {"v": "steps.sub.output.v"}),
        spec(
            "items",
            items,
            {
                "v": "steps.each.output.results[3].one.body.v",
                "count": "steps.each.output.succeeded",
                "turns": "steps.loop.output.iterations",
            },
        ),
        spec("cached", [add("s", f"input.n / {EQUAL}", "?ms=80", cache={"ttl": "1h"})], {"v": body}),
        spec("limited", [limited], {"count": "size(steps.look.output)"}, policies=policies),
        spec("routed", [{"id": "s", "node": "mix.add", "with": {"n": "{{ input.n }}"}}], {"v": "steps.s.output.v"}),
        spec("held", [nap, add("s", "input.n", "?ms=40", needs=["nap"])], {"v": body}),
        spec("by_event", [add("s", "input.n", "?ms=40")], {"v": body}, triggers=[event], **triggered),
        spec(
            "by_webhook",
            [add("s", "input.n", "?ms=40")],
            {"v": body},
            triggers=[{"type": "webhook", "name": "hook", "path": "mix"}],
            **triggered,
        ),
        spec("by_cron", [nap], {"at": "input.at"}, triggers=[cron]),
    ]
