"""The server that a command talks to: its address, the key to show, and its errors as sentences."""

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from api.cli.failure import UNREACHABLE, WRONG, CommandError

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_FILE = "api-key"
_SECONDS = 60.0


class Connection:
    """See the module. httpx is loaded at the first call: `reflux --help` does not need it.

    Raises (every call):
        CommandError: the server cannot be reached, or answers with a problem.
    """

    def __init__(self, url: str, key: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CommandError(f"{url!r} is not an address; write for example {DEFAULT_URL}")
        self.url = url.rstrip("/")
        self._local = _is_loopback(parts.hostname)
        self._key = key or self._stored_key()

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer of a GET; parameters that are None are left out."""
        return self.call("GET", path, query=query)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The JSON answer of a call; None when the answer is empty."""
        response = self.send(method, path, query=query, body=body, content=content, headers=headers)
        return response.json() if response.content else None

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> "httpx.Response":
        """The answer of a call, which is not an error."""
        import httpx

        kept = {name: value for name, value in (query or {}).items() if value not in (None, [])}
        try:
            with httpx.Client(headers=self._headers(), timeout=_SECONDS, trust_env=not self._local) as client:
                response = client.request(
                    method, f"{self.url}{path}", params=kept, json=body, content=content, headers=headers
                )
        except httpx.TransportError as error:
            raise self.unreachable(error) from None
        self.check(response)
        return response

    def streaming(self, read_seconds: float) -> "httpx.AsyncClient":
        """A client for answers that take their time."""
        import httpx

        timeout = httpx.Timeout(10.0, read=read_seconds)
        return httpx.AsyncClient(base_url=self.url, headers=self._headers(), timeout=timeout, trust_env=not self._local)

    def check(self, response: "httpx.Response") -> None:
        """Raise what an error answer says."""
        if response.status_code < 400:
            return
        try:
            problem = response.json()
            sentence = str(problem["detail"])
        except (ValueError, KeyError, TypeError):
            sentence = f"{self.url} answered with status {response.status_code}; is it a REFLUX server?"
            problem = {"title": "Unexpected answer", "status": response.status_code, "detail": sentence}
        if response.status_code == 401:
            sentence += "; give one with --api-key or REFLUX_API_KEY"
        raise CommandError(sentence, UNREACHABLE if response.status_code >= 500 else WRONG, problem)

    def unreachable(self, error: Exception) -> CommandError:
        """The error for a server that does not answer."""
        reason = str(error) or type(error).__name__
        return CommandError(
            f"no REFLUX server answers at {self.url} ({reason}); start one with `reflux up`, or name it with --url",
            UNREACHABLE,
        )

    def _headers(self) -> dict[str, str]:
        if self._key is None:
            return {}
        if not self._key.isascii() or not self._key.isprintable():
            raise CommandError("the API key has characters that no key has; check --api-key and REFLUX_API_KEY")
        return {"Authorization": f"Bearer {self._key}"}

    def _stored_key(self) -> str | None:
        """The key that `reflux up` left for this machine. It is shown to servers of this machine alone."""
        if not self._local:
            return None
        try:
            return (home() / KEY_FILE).read_text().strip() or None
        except (OSError, UnicodeDecodeError):
            return None


def home() -> Path:
    """The data directory, as `reflux up` chooses it. Read here because loading all settings takes long."""
    return Path(os.environ.get("REFLUX_HOME") or "~/.reflux").expanduser()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
