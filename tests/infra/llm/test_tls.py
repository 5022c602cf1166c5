"""Certificates are checked against the name, although the connection goes to an address that was looked up before."""

from pathlib import Path

import pytest

from core.errors import ErrorClass, StepError
from core.llm import ChatRequest, Endpoint, Provider
from engine.nodes.egress import EgressPolicy
from infra.clock import SystemClock
from infra.llm.models import Models
from tests.engine.nodes.loopback_server import json_response, loopback
from tests.engine.nodes.test_http_egress import _certificate

ANSWER = b'{"model": "m", "choices": [{"message": {"content": "safe"}, "finish_reason": "stop"}]}'


async def test_tls_is_verified_against_the_name(tmp_path: Path) -> None:
    server_tls, client_tls = _certificate(tmp_path)
    policy = EgressPolicy(["127.0.0.0/8"])
    trusting, plain = Models(policy, SystemClock(), client_tls), Models(policy, SystemClock())
    async with loopback(lambda _: json_response(ANSWER), tls=server_tls) as server:
        by_name = ChatRequest(Provider.OPENAI, Endpoint(f"https://localhost:{server.port}", "k", 3, "i"), "m", ())
        by_address = ChatRequest(Provider.OPENAI, Endpoint(server.url, "k", 3, "i"), "m", ())
        assert (await trusting.chat(by_name)).text == "safe"
        for models, request in ((plain, by_name), (trusting, by_address)):
            with pytest.raises(StepError, match="certificate") as raised:
                await models.chat(request)
            assert raised.value.error_class is ErrorClass.NETWORK
        await trusting.aclose()
        await plain.aclose()
