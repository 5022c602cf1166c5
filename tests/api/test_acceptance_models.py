"""One node with two arms that speak the protocols of two providers of language models, on real connections."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.infra.llm.model_server import KEY, ModelServer, model_server
from tests.server import RunningServer, running_server

API = "/api/v1"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """The libraries of the providers stay loaded: not in the server that other tests measure."""
    with running_server() as running:
        yield running


def arm(name: str, version: str, label: str, server: ModelServer, **more: Any) -> dict[str, Any]:
    suffix = "/v1" if label == "openai" else ""
    with_ = {"provider": label, "model": f"{label}-model", "base_url": server.url + suffix, **more}
    with_ |= {"prompt": "{{ input.question }}", "api_key": "{{ secrets.MODEL_KEY }}", "max_tokens": 50}
    with_["price"] = {"input": 1, "output": 2}
    return {"name": name, "version": version, "label": label, "base": "ai.chat", "with": with_}


async def test_two_providers_are_arms_of_one_node(server: RunningServer, name: str) -> None:
    headers = {"Authorization": f"Bearer {server.key}"}
    async with (
        model_server() as openai,
        model_server() as anthropic,
        httpx.AsyncClient(base_url=server.url + API, headers=headers, timeout=30) as api,
    ):
        assert (await api.post("/secrets", json={"name": "MODEL_KEY", "value": KEY})).is_success
        node = f"ask_{name}"
        for one in (
            arm(node, "1.0.0", "openai", openai, stream=True),
            arm(node, "2.0.0", "anthropic", anthropic, stream=True),
        ):
            made = await api.post("/nodes", json=one)
            assert made.status_code == 201, made.text
        route = {
            "arms": [
                {"version": "openai", "weight": 1, "fallback": "anthropic"},
                {"version": "anthropic", "weight": 0},
            ],
            "goal": "cost",
        }
        assert (await api.put(f"/nodes/{node}/route", json=route)).is_success
        retry = {"max_attempts": 2, "initial": "10ms"}
        step = {"id": "ask", "node": node, "with": {"question": "{{ input.q }}"}, "retry": retry}
        spec = {"name": name, "steps": [step], "outputs": {"text": "{{ steps.ask.output.text }}"}}
        assert (await api.post("/workflows", json=spec)).status_code == 201

        async def run() -> dict[str, Any]:
            answered = await api.post(f"/workflows/{name}/execute?wait=20", json={"input": {"q": "Who?"}})
            found: dict[str, Any] = answered.json()
            return found

        first = await run()
        assert (first["status"], first["outputs"]["text"]) == ("completed", openai.text)
        assert first["cost_usd"] > 0
        for mode, error in (("failing", "upstream_5xx"), ("unauthorized", "auth"), ("limited", "rate_limited")):
            openai.mode = mode
            second = await run()
            assert (second["status"], second["outputs"]["text"]) == ("completed", anthropic.text), mode
            rows = await attempts(api, second["id"])
            assert [row["error_class"] for row in rows[:-1]] == [error] * (len(rows) - 1), mode
            assert [row["arm"] for row in rows] == ["openai"] * (len(rows) - 1) + ["anthropic"], mode
            last = rows[-1]
            assert (last["assigned_arm"], last["served_by"], last["arm_probability"]) == ("openai", "fallback", 1.0)
            assert last["tokens_in"] > 0
            assert last["metrics"]["ttft_ms"] >= 0


async def attempts(api: httpx.AsyncClient, run_id: str) -> list[dict[str, Any]]:

    rows: list[dict[str, Any]] = []
    for _ in range(200):
        rows = (await api.get("/traces", params={"run_id": run_id})).json()["items"]
        if rows and any(row["status"] == "ok" for row in rows):
            break
        await asyncio.sleep(0.05)
    return sorted(rows, key=lambda row: int(row["attempt"]))
