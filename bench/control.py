"""What steers steps: cached results, events and runs that wait for them, long lists of items."""

import json
import time
from datetime import datetime
from typing import Any

import uvloop

from bench.client import Load, load, post
from bench.row import Row
from bench.server import Service, free_port, slow_server

_GROUPS, _EACH = 100, 100
"""Runs that wait: groups of equal input, so many runs each."""
_CALLERS = 20
_ITEMS = 10_000


def control_rates(service: Service, limits: dict[str, float]) -> list[Row]:
    """All rows. `limits` are the raw figures per second."""
    commits = limits["commits, 1 connection"]
    return [_cache_hit(service, commits), _events(service, commits), *_waiting(service), *_foreach(service, limits)]


def _cache_hit(service: Service, commits: float) -> Row:
    port = free_port()
    with slow_server(port, 50):
        step = {
            "id": "ask",
            "node": "http.request",
            "with": {"url": f"http://127.0.0.1:{port}/"},
            "cache": {"ttl": "1h"},
        }
        service.workflow({"name": "cached", "steps": [step], "outputs": {"n": "{{ steps.ask.output.status }}"}})
        path = "/api/v1/workflows/cached/execute?wait=30"
        _load(service, path, {"input": {}}, 1, 0.5, b'"n":200')
        found = _load(service, path, {"input": {}}, 1, 3.0, b'"cache_hit":true')
    if found.errors:
        raise RuntimeError(f"{found.errors} of {found.calls} calls were no hits")
    return Row("cache hit, 1 caller: p50", found.p50, "ms", "<= 2", 1000 / commits, "one commit")


def _events(service: Service, commits: float) -> Row:
    found = _load(service, "/api/v1/events", {"name": "bench.nobody", "payload": {"n": 1}}, 32, 3.0, b'"woken":0')
    return Row(
        "events that nobody waits for, 32 callers", found.per_second, "events/s", "", commits, "commits, 1 connection"
    )


def _waiting(service: Service) -> list[Row]:
    """Runs that wait, their memory, and how soon they end after their event."""
    wait = {"event": "bench.paid", "match": "event.n == input.n || event.n == -1"}
    service.workflow({"name": "wait", "steps": [{"id": "hold", "node": "flow.wait", "with": wait}]})
    before = service.memory_mb()
    for group in range(_GROUPS):
        body = {"input": {"n": group}}
        _load(service, "/api/v1/workflows/wait/execute", body, _CALLERS, 120, b'"status"', _EACH // _CALLERS)
    time.sleep(2)
    active, memory = service.active_runs(), service.memory_mb() - before
    sent = [_send(service, group) for group in range(_GROUPS // 2)]
    ends = _ends(service, _EACH * len(sent))
    delays = sorted((end - sent[group]).total_seconds() * 1000 for group, all_ in ends.items() for end in all_)
    at_once = _send(service, -1)
    last = max(end for all_ in _ends(service, _EACH * _GROUPS).values() for end in all_)
    return [
        Row("runs waiting for an event", active, "runs", ">= 10,000", _GROUPS * _EACH, "submitted"),
        Row("memory of all of them", memory, "MB", "<= 1,500"),
        Row("memory of each of them", memory * 1024 / active, "kB", ""),
        Row("from the event to the end of the run: p50", delays[len(delays) // 2], "ms", ""),
        Row("from the event to the end of the run: max", delays[-1], "ms", "<= 1,000"),
        Row("5,000 runs end by one event: the last", (last - at_once).total_seconds() * 1000, "ms", ""),
    ]


def _send(service: Service, group: int) -> datetime:
    """Send an event; when it was received."""
    sent = service.http.post("/events", json={"name": "bench.paid", "payload": {"n": group}}).raise_for_status().json()
    page = service.http.get("/events", params={"name": "bench.paid", "limit": 1}).json()["items"]
    assert page[0]["id"] == sent["id"]
    return datetime.fromisoformat(page[0]["received_at"])


def _ends(service: Service, count: int) -> dict[int, list[datetime]]:
    """When runs ended, by group, once so many have."""
    found: dict[int, list[datetime]] = {}
    until = time.monotonic() + 60
    while service.active_runs() > _GROUPS * _EACH - count:
        if time.monotonic() > until:
            raise RuntimeError("not all runs were woken")
        time.sleep(0.05)
    cursor = None
    runs: list[dict[str, Any]] = []
    while True:
        query: dict[str, Any] = {"workflow": "wait", "status": "completed", "limit": 100}
        page = service.http.get("/runs", params=query | ({"cursor": cursor} if cursor else {})).json()
        runs += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    # The groups were made one after the other, so the order of creation tells them apart.
    runs.sort(key=lambda run: run["created_at"])
    for position, run in enumerate(runs):
        found.setdefault(position // _EACH, []).append(datetime.fromisoformat(run["finished_at"]))
    return found


def _foreach(service: Service, limits: dict[str, float]) -> list[Row]:
    """Items of a pure step, of which one in 33 fails."""
    step = {
        "id": "each",
        "node": "transform.map",
        "foreach": "{{ input.items }}",
        "concurrency": 100,
        "with": {"value": "{{ 100 / (item % 33) }}"},
        "on_error": "continue",
    }
    service.workflow({"name": "each", "steps": [step], "outputs": {"n": "{{ size(steps.each.output) }}"}})
    body = {"input": {"items": list(range(_ITEMS))}}
    took = []
    for _ in range(3):
        started = time.perf_counter()
        run = service.http.post("/workflows/each/execute?wait=60", json=body).json()
        took.append(time.perf_counter() - started)
        if run["status"] != "completed" or run["outputs"] != {"n": _ITEMS}:
            raise RuntimeError(f"the foreach is {run['status']}")
    started = time.perf_counter()
    service.http.get(f"/runs/{run['id']}/events", params={"cursor": _ITEMS // 2, "limit": 100}).raise_for_status()
    page = (time.perf_counter() - started) * 1000
    return [
        Row("foreach of 10,000, 100 at once", _ITEMS / min(took), "items/s", "", limits["COPY rows"], "COPY rows"),
        Row("a page of its events", page, "ms", ""),
    ]


def _load(
    service: Service, path: str, body: Any, callers: int, seconds: float, wanted: bytes, most: int | None = None
) -> Load:
    request = post("127.0.0.1", service.port, path, service.key, json.dumps(body))
    limits = {} if most is None else {"most": most}
    found = uvloop.run(load("127.0.0.1", service.port, request, callers, seconds, wanted, **limits))
    if found.errors == found.calls:
        raise RuntimeError(f"no answer of {path} is right")
    return found
