"""What the server is given to do: a workflow with every kind of step, whose result is known beforehand."""

from collections.abc import Iterator
from typing import Any

ITEMS = 3


class _Chain:
    """Builds the steps; `value` is an expression for the number reached so far, `known` the number."""

    def __init__(self, called: str) -> None:
        self.called = called
        self.steps: list[dict[str, Any]] = []
        self.value = "input.n"
        self.known = 0
        self.needs: list[str] = []

    def add(self, node: str, params: dict[str, Any], **more: Any) -> str:
        step_id = f"s{len(self.steps)}"
        self.steps.append({"id": step_id, "node": node, "with": params, "needs": list(self.needs), **more})
        return step_id

    def cel(self, tail: str = "") -> str:
        return "{{ " + self.value + tail + " }}"

    def goes_on(self, step_id: str, value: str | None, gain: int) -> None:
        self.needs = [step_id]
        self.value = value or self.value
        self.known += gain

    def http(self, method: str) -> dict[str, Any]:
        return {"method": method, "url": self.called + "/add/" + self.cel() + "?ms={{ input.ms }}"}


def _map(chain: _Chain) -> None:
    step = chain.add("transform.map", {"value": {"v": chain.cel(" + 1")}})
    chain.goes_on(step, f"steps.{step}.output.v", 1)


def _get(chain: _Chain) -> None:
    step = chain.add("http.request", chain.http("GET"))
    chain.goes_on(step, f"steps.{step}.output.body.v", 1)


def _put_beside(chain: _Chain) -> None:
    """Runs in parallel with the step before it."""
    before = chain.steps[-1]
    own = {**before, "id": f"s{len(chain.steps)}", "with": {**before["with"], "method": "PUT"}}
    chain.steps.append(own)
    chain.needs = [before["id"], own["id"]]


def _post(chain: _Chain) -> None:
    step = chain.add("http.request", chain.http("POST"), effect="idempotent")
    chain.goes_on(step, f"steps.{step}.output.body.v", 1)


def _delay(chain: _Chain) -> None:
    chain.goes_on(chain.add("flow.delay", {"seconds": "{{ input.delay }}"}), None, 0)


def _each(chain: _Chain) -> None:
    step = chain.add("http.request", chain.http("GET"), foreach=list(range(ITEMS)), concurrency=2)
    chain.goes_on(step, f"steps.{step}.output[{ITEMS - 1}].body.v", 1)


def _if(chain: _Chain) -> None:
    chain.goes_on(chain.add("flow.if", {"condition": chain.cel(" > 0")}), None, 0)


def _filter(chain: _Chain) -> None:
    step = chain.add("transform.filter", {"items": [1, 2, 3], "where": "item > 2"})
    chain.goes_on(step, f"{chain.value} + steps.{step}.output.count", 1)


_KINDS = (_map, _get, _put_beside, _map, _post, _delay, _each, _if, _filter, _get)


def workflow(called: str, steps: int) -> tuple[dict[str, Any], int]:
    """A spec of so many steps, and how much its output is above the input's `n`."""
    chain = _Chain(called)
    for kind in _cycle(steps):
        kind(chain)
    spec = {
        "name": "chaos",
        "inputs": {"type": "object", "required": ["n", "ms", "delay"]},
        "steps": chain.steps,
        "outputs": {"v": f"{{{{ {chain.value} }}}}"},
    }
    return spec, chain.known


def _cycle(steps: int) -> Iterator[Any]:
    for index in range(steps):
        yield _KINDS[index % len(_KINDS)]
