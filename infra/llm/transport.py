"""The HTTP transport below the providers' clients: it leads only where the egress policy allows.

A name is resolved once, and the connection goes to an address that was checked, so a name that changes its address in
between gets nowhere. No proxy, redirect or compression is used, and only the headers that the protocols need are sent:
the clients would add others from environment variables.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Protocol

import httpcore2
import httpx2

from core.errors import ErrorClass, StepError

Address = IPv4Address | IPv6Address

MAX_RESPONSE_BYTES = 64 * 1024 * 1024
"""2,048 vectors of 3,072 numbers are no more than that."""
_MAX_CONNECTIONS = 1_000
# Below the five seconds after which common servers close an idle connection, so that no request meets a closing one.
_KEEPALIVE_SECONDS = 4.0
_ADDED = ((b"User-Agent", b"reflux"), (b"Accept-Encoding", b"identity"))
_SENT = frozenset(
    {
        "accept",
        "anthropic-version",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "host",
        "idempotency-key",
        "transfer-encoding",
        "x-api-key",
    }
)


class Egress(Protocol):
    """Says which addresses may be reached."""

    def check_host(self, host: str) -> None:
        """Raise StepError(POLICY) for a host that can be refused before its name is resolved."""
        ...

    def check_address(self, address: Address, host: str) -> None:
        """Raise StepError(POLICY) when the address that `host` stands for may not be reached."""
        ...

    def permits(self, address: Address) -> bool:
        """Whether this address may be reached."""
        ...


class _CheckedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that were checked, whatever name leads to them."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 -- the interface of httpcore2
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        failure: Exception | None = None
        for address in await self._addresses(host, port):
            try:
                return await self._network.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore2.ConnectError("the name has no address")

    async def _addresses(self, host: str, port: int) -> list[Address]:
        self._egress.check_host(host)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise httpcore2.ConnectError("the name cannot be resolved") from None
        addresses = list(dict.fromkeys(ip_address(str(one[4][0]).partition("%")[0]) for one in found))
        permitted = [one for one in addresses if self._egress.permits(one)]
        if addresses and not permitted:
            self._egress.check_address(addresses[0], host)
        return permitted

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _BoundedStream(httpx2.AsyncByteStream):
    """A response body of limited size, with failures under the names that the clients know."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for part in self._stream:
                size += len(part)
                if size > MAX_RESPONSE_BYTES:
                    raise StepError(ErrorClass.DECODE, f"The answer is larger than {MAX_RESPONSE_BYTES} bytes.")
                yield part
        except _TRANSPORT_ERRORS as error:
            raise _renamed(error) from None

    async def aclose(self) -> None:
        await self._stream.aclose()


class CheckedTransport(httpx2.AsyncBaseTransport):
    """See the module."""

    def __init__(self, egress: Egress, tls: ssl.SSLContext | None = None) -> None:
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls or ssl.create_default_context(),
            max_connections=_MAX_CONNECTIONS,
            keepalive_expiry=_KEEPALIVE_SECONDS,
            network_backend=_CheckedNetwork(egress),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request."""
        headers = [(name, value) for name, value in request.headers.raw if name.lower().decode() in _SENT]
        url = request.url
        try:
            response = await self._pool.handle_async_request(
                httpcore2.Request(
                    method=request.method,
                    url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=[*headers, *_ADDED],
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        except _TRANSPORT_ERRORS as error:
            raise _renamed(error) from None
        if any(
            name.lower() == b"content-encoding" and value.lower() != b"identity" for name, value in response.headers
        ):
            await response.aclose()
            raise StepError(ErrorClass.DECODE, "The answer is compressed although that was not asked for.")
        return httpx2.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_BoundedStream(response.stream),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


def http_client(egress: Egress, tls: ssl.SSLContext | None = None) -> httpx2.AsyncClient:
    """A client for the providers' libraries, with a connection pool of its own."""
    return httpx2.AsyncClient(transport=CheckedTransport(egress, tls), trust_env=False, follow_redirects=False)


_TRANSPORT_ERRORS = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
)


def _renamed(error: Exception) -> httpx2.TransportError:
    """The same failure as httpx2 names it; the two libraries use equal names."""
    kind: type[httpx2.TransportError] = getattr(httpx2, type(error).__name__, httpx2.TransportError)
    return kind(str(error))
