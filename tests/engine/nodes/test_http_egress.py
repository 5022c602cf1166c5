"""Where `http.request` may go, also when a server sends it on."""

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from core.errors import ErrorClass, StepError
from engine.node.sdk import NodeVersion
from engine.nodes.egress import EgressPolicy
from engine.nodes.http import http_request_node
from tests.engine.node.step_context import make_context
from tests.engine.nodes.loopback_server import Request, loopback, response

SECRET = {"Authorization": "Bearer s", "Cookie": "c=1", "X-Api-Key": "k", "Accept": "text/x"}


@pytest.fixture(scope="module")
async def http() -> AsyncIterator[NodeVersion]:
    node = http_request_node(EgressPolicy(["127.0.0.0/8"]))
    yield node
    await node.aclose()


async def refused(http: NodeVersion, params: dict[str, Any]) -> StepError:
    with pytest.raises(StepError) as raised:
        await http(params, make_context())
    assert raised.value.error_class is ErrorClass.POLICY
    return raised.value


async def test_without_a_range_loopback_is_closed_by_any_name() -> None:
    http = http_request_node(EgressPolicy())
    async with loopback(lambda _: response()) as server:
        for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "①②⑦.⓪.⓪.①", "127.1"):
            await refused(http, {"url": f"http://{host}:{server.port}/"})
    assert server.connections == 0
    await http.aclose()


async def test_a_name_reaches_only_its_permitted_addresses(http: NodeVersion) -> None:
    async with loopback(lambda _: response(200, b"hi")) as server:
        output = await http({"url": f"http://localhost:{server.port}/"}, make_context())
        assert output["body"] == "hi"
        assert server.requests[0].headers["host"] == f"localhost:{server.port}"


async def test_proxies_of_the_environment_are_not_used(http: NodeVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    async with loopback(lambda _: response(200, b"direct")) as server, loopback(lambda _: response(200, b"p")) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert (await http({"url": server.url}, make_context()))["body"] == "direct"
        assert proxy.connections == 0


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest", "http://10.0.0.1/", "file:///etc/passwd", "//[::1]/"]
)
async def test_a_redirect_is_checked_again(http: NodeVersion, target: str) -> None:
    async with loopback(lambda _: response(302, location=target)) as server:
        await refused(http, {"url": server.url})


@pytest.mark.parametrize(
    ("method", "status", "then"),
    [("GET", 302, "GET"), ("HEAD", 301, "HEAD"), ("POST", 302, "GET"), ("PUT", 303, "GET"), ("POST", 307, "POST")],
)
async def test_redirects_change_the_method_as_the_rfc_says(
    http: NodeVersion, method: str, status: int, then: str
) -> None:
    def answer(request: Request) -> bytes:
        return response(status, location="/next?a=1") if request.target == "/" else response()

    params: dict[str, Any] = {"method": method, "headers": SECRET, "follow_redirects": True}
    if method in {"POST", "PUT"}:
        params["json"] = 1
    async with loopback(answer) as server:
        await http({"url": f"{server.url}/", **params}, make_context())
    last = server.requests[1]
    assert (last.method, last.target) == (then, "/next?a=1")
    assert last.body == (b"1" if then == "POST" else b"")
    assert ("content-type" in last.headers) == (then == "POST")
    assert last.headers["authorization"] == "Bearer s"


async def test_credentials_stay_with_their_origin(http: NodeVersion) -> None:
    async with (
        loopback(lambda _: response()) as other,
        loopback(lambda _: response(302, location=f"{other.url}/there")) as server,
    ):
        auth = {"type": "api_key", "name": "X-Other", "value": "v"}
        await http({"url": server.url, "headers": SECRET, "auth": auth}, make_context())
    assert server.requests[0].headers["x-other"] == "v"
    headers = other.requests[0].headers
    assert not {"authorization", "cookie", "x-api-key", "x-other"} & set(headers)
    assert headers["accept"] == "text/x"


async def test_a_post_is_not_sent_on_unless_asked(http: NodeVersion) -> None:
    async with loopback(lambda _: response(302, location="/next")) as server:
        output = await http({"url": server.url, "method": "POST"}, make_context())
        assert output["status"] == 302
        assert output["headers"]["location"] == "/next"
        await http({"url": server.url, "follow_redirects": False}, make_context())
    assert len(server.requests) == 2


async def test_redirects_are_counted(http: NodeVersion) -> None:
    async with loopback(lambda _: response(302, location="/again")) as server:
        assert "redirects" in (await refused(http, {"url": server.url})).message
        assert len(server.requests) == 6
        await refused(http, {"url": server.url, "max_redirects": 0})
        assert len(server.requests) == 7


def _certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "cert.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=pem)


async def test_tls_is_verified_against_the_name(tmp_path: Path, http: NodeVersion) -> None:
    server_tls, client_tls = _certificate(tmp_path)
    trusting = http_request_node(EgressPolicy(["127.0.0.0/8"]), client_tls)
    async with loopback(lambda _: response(200, b"safe"), tls=server_tls) as server:
        url = f"https://localhost:{server.port}"
        assert (await trusting({"url": url}, make_context()))["body"] == "safe"
        for node, target in ((http, url), (trusting, server.url)):  # unknown authority; the address is not in the name
            with pytest.raises(StepError) as raised:
                await node({"url": target, "method": "POST"}, make_context())
            assert raised.value.error_class is ErrorClass.NETWORK
            assert "certificate" in raised.value.message
            assert not raised.value.outcome_unknown
    await trusting.aclose()
    await asyncio.sleep(0.05)


async def test_the_socket_itself_is_checked() -> None:
    # What a resolver could be tricked into: the policy turns strict between the look-up and the connection.
    class Rebinding(EgressPolicy):
        calls = 0

        def permits(self, address: Any) -> bool:
            self.calls += 1
            return self.calls == 1 and address == ip_address("127.0.0.1")

    http = http_request_node(Rebinding())
    async with loopback(lambda _: response()) as server:
        await refused(http, {"url": f"http://127.0.0.1:{server.port}/"})
        assert server.connections == 0
    await http.aclose()
