"""What came back: read within a bound, unpacked within the same bound, decoded to a JSON value."""

import base64
import codecs
import zlib
from collections.abc import Mapping

import aiohttp

from core.errors import ErrorClass, StepError
from core.json import JsonError, JsonValue, decode

_TEXTUAL = frozenset(
    {
        "application/xml",
        "application/javascript",
        "application/x-www-form-urlencoded",
        "application/x-ndjson",
        "application/yaml",
        "application/x-yaml",
        "application/toml",
        "application/graphql",
        "application/sql",
    }
)


class BodyTooLarge(Exception):
    """The body is larger than asked for; the connection must not be used again."""


class _Inflater:
    """Unpacks gzip or deflate, never further than the bound: a small body may stand for a huge one."""

    def __init__(self, encoding: str, limit: int) -> None:
        self._gzip = encoding != "deflate"
        self._limit = limit
        self._object = zlib.decompressobj(zlib.MAX_WBITS | 16) if self._gzip else None
        self.parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        while data:
            if self._object is None:
                # `deflate` means zlib, but some servers send the raw stream.
                zlib_header = data[0] & 0x0F == 8 and data[0] >> 4 <= 7
                self._object = zlib.decompressobj(zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS)
            part = self._object.decompress(data, self._limit - self._size + 1)
            self._size += len(part)
            if self._size > self._limit:
                raise BodyTooLarge
            self.parts.append(part)
            data = self._object.unused_data or self._object.unconsumed_tail
            if self._object.eof:
                if not self._gzip:
                    return
                self._object = zlib.decompressobj(zlib.MAX_WBITS | 16) if data else self._object

    @property
    def complete(self) -> bool:
        return self._object is not None and self._object.eof


async def read_body(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, int]:
    """The unpacked body, and how many bytes came over the wire.

    Args:
        response: a response whose body has not been read.
        limit: bytes, both on the wire and unpacked.

    Raises:
        BodyTooLarge: reading stopped at the limit.
        StepError: DECODE when the body's compression is unknown or broken.
        aiohttp.ClientError: the connection broke.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    inflater: _Inflater | None = None
    if encoding in {"gzip", "x-gzip", "deflate"}:
        inflater = _Inflater(encoding, limit)
    elif encoding not in {"", "identity"}:
        raise _broken(response.status, f"is packed as {encoding[:40]!r}, which was not asked for")
    size = 0
    parts: list[bytes] = []
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge
        if inflater is None:
            parts.append(chunk)
            continue
        try:
            inflater.feed(chunk)
        except zlib.error:
            raise _broken(response.status, f"is not valid {encoding}") from None
    if inflater is not None and size:
        if not inflater.complete:
            raise _broken(response.status, f"ends in the middle of its {encoding} data")
        parts = inflater.parts
    return b"".join(parts), size


def decode_body(raw: bytes, headers: Mapping[str, str], status: int) -> JsonValue:
    """JSON as its value, text as text, anything else as `{"base64": ...}`; an empty body is null.

    Raises:
        StepError: DECODE when the content type says JSON and the body is not. The body's text is never quoted.
    """
    if not raw:
        return None
    kind, _, parameters = headers.get("Content-Type", "").partition(";")
    kind = kind.strip().lower()
    charset = _charset(parameters)
    if kind in {"application/json", "text/json"} or kind.endswith("+json"):
        try:
            return decode(_utf8(raw, charset))
        except JsonError as error:
            # The parser's own words may quote the body; where it failed is enough.
            deep = "nested" in str(error)
            raise _broken(status, f"says {kind} but is {'nested too deeply' if deep else 'not valid JSON'}") from None
    if not kind:
        return _guess(raw)
    if kind.startswith("text/") or kind in _TEXTUAL or kind.endswith("+xml") or charset:
        return raw.decode(charset or "utf-8", errors="replace")
    return {"base64": base64.b64encode(raw).decode()}


def _guess(raw: bytes) -> JsonValue:
    try:
        return decode(raw)
    except JsonError:
        pass
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def _utf8(raw: bytes, charset: str) -> bytes:
    if charset and charset not in {"utf-8", "ascii"}:
        return raw.decode(charset, errors="replace").removeprefix("\ufeff").encode()
    return raw.removeprefix(codecs.BOM_UTF8)


def _charset(parameters: str) -> str:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            try:
                info = codecs.lookup(value.strip().strip("\"'"))
                # Some codecs are no character sets (`hex`, `zip`), or cannot replace what is broken (`idna`).
                b"\xff".decode(info.name, errors="replace")
            except (LookupError, ValueError):
                return ""
            return info.name
    return ""


def _broken(status: int, what: str) -> StepError:
    message = f"The answer's body {what} (HTTP status {status})."
    return StepError(ErrorClass.DECODE, message, detail={"status": status})
