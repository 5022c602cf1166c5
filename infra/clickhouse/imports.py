"""Bulk imports of traces: JSON, `{"traces": [...]}` or one JSON object on each line.

Lines are taken as they arrive; a JSON document is taken when it is complete. A bad row is reported and left out, all
others are kept. A row's attempt id is a hash of its workspace and all that it says, so importing a file
again, or in other pieces, names the same attempts; rows that are equal in every field are one attempt.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from core.errors import Fault, Invalid
from core.json import JsonError, decode
from infra.clickhouse.arrow import Table, pa
from infra.clickhouse.columns import SCHEMA, map_array
from infra.clickhouse.import_fields import check

MAX_BODY = 64 * 1024 * 1024
"""Bytes of one import."""

_FEED_BYTES = 2 * 1024 * 1024
# Checks run column by column over a piece of rows; small pieces stay in the processor's cache (1.5 times faster).
_PIECE_ROWS = 1000
_MAX_LINE = 256 * 1024
_MAX_FAULTS = 100
_SPACE = b" \t\r\n"

Fingerprint = Callable[[str, str], str]
"""Error class and message to the name of that kind of failure."""


@dataclass(frozen=True, slots=True)
class RowFault:
    """A row that was left out. `line` counts from 1: lines of NDJSON, elements of an array; `field` is empty when the
    row as a whole is wrong."""

    line: int
    field: str
    reason: str


class TraceImport:
    """Takes the bytes of one import and gives Arrow tables (`columns.SCHEMA`) of good rows.

    Attributes:
        accepted: good rows so far.
        repeated: good rows that are equal to an earlier one of the same import, and left out.
        rejected: bad rows so far; `faults` tells about the first 100 of them.
    """

    def __init__(self, workspace: str, fingerprint: Fingerprint) -> None:
        self._workspace = workspace
        self._fingerprint = fingerprint
        self._fingerprints: dict[tuple[str, str], str] = {}
        self._seen: set[bytes] = set()
        self._pending = bytearray()
        self._bytes = 0
        self._line = 0
        self._by_line: bool | None = None
        self.accepted = 0
        self.repeated = 0
        self.rejected = 0
        self.faults: list[RowFault] = []

    def feed(self, data: bytes) -> Iterator[Table]:
        """Tables of the rows that are complete with these bytes, at most 1,000 rows each.

        Raises:
            Invalid: the import has grown beyond MAX_BODY.
        """
        self._bytes += len(data)
        if self._bytes > MAX_BODY:
            raise _invalid("too_large", f"an import has at most {MAX_BODY // 1024 // 1024} MB; send it in parts")
        self._pending += data
        if len(self._pending) >= _FEED_BYTES and self._is_lines():
            end = self._pending.rfind(b"\n") + 1
            complete = bytes(self._pending[:end])
            del self._pending[:end]
            yield from self._lines(complete)

    def finish(self) -> Iterator[Table]:
        """Tables of the remaining rows.

        Raises:
            Invalid: the body is neither lines of JSON objects nor a document with an array of them.
        """
        rest = bytes(self._pending)
        self._pending.clear()
        if not rest.strip(_SPACE):
            return
        if self._is_lines(rest):
            yield from self._lines(rest)
            return
        rows = _document(rest)
        for first in range(0, len(rows), _PIECE_ROWS):
            part = rows[first : first + _PIECE_ROWS]
            yield from self._chunk(part, range(first + 1, first + 1 + len(part)))

    def _is_lines(self, whole: bytes | None = None) -> bool:
        """NDJSON, told by its first line: an object that is complete and is not the envelope of a document.

        The first line of a document is only the start of one (`[`, `{`), or all of it. Once told it stays so.
        """
        if self._by_line is None:
            head = (self._pending if whole is None else whole).lstrip(_SPACE)
            if head.startswith(b"["):
                self._by_line = False
            else:
                line, newline, _ = head.partition(b"\n")
                self._by_line = _is_row(bytes(line)) or (
                    bool(newline) and not line.rstrip(_SPACE).endswith((b"{", b"["))
                )
                if self._by_line and not newline and whole is None:
                    self._by_line = None  # the line goes on
                    return False
        return self._by_line

    def _lines(self, data: bytes) -> Iterator[Table]:
        lines = data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        for first in range(0, len(lines), _PIECE_ROWS):
            part = lines[first : first + _PIECE_ROWS]
            numbers = range(self._line + 1, self._line + 1 + len(part))
            self._line += len(part)
            try:
                yield from self._chunk([orjson.loads(line) for line in part], numbers)
            except orjson.JSONDecodeError:
                yield from self._mixed(part, numbers)

    def _mixed(self, lines: list[bytes], numbers: range) -> Iterator[Table]:
        """Lines of which at least one is empty or no JSON."""
        rows: list[Any] = []
        kept: list[int] = []
        for line, at in zip(lines, numbers, strict=True):
            if not line.strip(_SPACE):
                continue
            try:
                if len(line) > _MAX_LINE:
                    raise JsonError(f"the line is longer than {_MAX_LINE // 1024} KB")
                rows.append(decode(line))
                kept.append(at)
            except JsonError as error:
                self._reject(at, "", str(error))
        yield from self._chunk(rows, kept)

    def _chunk(self, rows: list[Any], numbers: range | list[int]) -> Iterator[Table]:
        if set(map(type, rows)) - {dict}:
            good = [(row, at) for row, at in zip(rows, numbers, strict=True) if type(row) is dict]
            for row, at in zip(rows, numbers, strict=True):
                if type(row) is not dict:
                    self._reject(at, "", "must be an object")
            rows, numbers = [row for row, _ in good], [at for _, at in good]
        if not rows:
            return
        columns, bad = check(rows)
        for i, (field, reason) in sorted(bad.items()):
            self._reject(numbers[i], field, reason)
        ids, left_out = self._identities(rows, columns, bad)
        if left_out:
            columns = {
                name: [value for i, value in enumerate(values) if i not in left_out] for name, values in columns.items()
            }
        if ids:
            self.accepted += len(ids)
            yield self._table(ids, columns)

    def _reject(self, line: int, field: str, reason: str) -> None:
        self.rejected += 1
        if len(self.faults) < _MAX_FAULTS:
            self.faults.append(RowFault(line, field, reason))

    def _identities(
        self, rows: list[dict[str, Any]], columns: dict[str, list[Any]], bad: dict[int, tuple[str, str]]
    ) -> tuple[list[bytes], set[int]]:
        """Attempt ids of the good rows that are new to this import, and the indexes of all others."""
        prefix = blake2b(self._workspace.encode() + b"\0", digest_size=16)
        ids: list[bytes] = []
        left_out = set(bad)
        seen, starts = self._seen, columns["start"]
        for i, row in enumerate(rows):
            if i in bad:
                continue
            # The instant and not its spelling, so that `Z` and `+00:00` are the same row.
            row["start"] = starts[i]
            hashed = prefix.copy()
            hashed.update(orjson.dumps(row, option=orjson.OPT_SORT_KEYS))
            identity = _uuid_bytes(hashed.digest())
            if identity in seen:
                self.repeated += 1
                left_out.add(i)
                continue
            seen.add(identity)
            ids.append(identity)
        return ids, left_out

    def _table(self, ids: list[bytes], columns: dict[str, list[Any]]) -> Table:
        count = len(ids)
        numbers, texts = _split(columns["features"])
        given = {
            **columns,
            "attempt_id": ids,
            "workspace": [self._workspace] * count,
            "item": [-1] * count,
            "error_fingerprint": self._error_fingerprints(columns),
            "numbers": numbers,
            "texts": texts,
        }
        arrays = []
        for field in SCHEMA:
            if pa.types.is_map(field.type):
                arrays.append(map_array(given[field.name], field.type))
            elif field.name in given:
                arrays.append(pa.array(given[field.name], field.type))
            else:  # what an import cannot say: rollout, stage, queue time
                empty = "" if pa.types.is_string(field.type) else 0
                arrays.append(pa.repeat(pa.scalar(empty, field.type), count))
        return pa.Table.from_arrays(arrays, schema=SCHEMA)

    def _error_fingerprints(self, columns: dict[str, list[Any]]) -> list[str]:
        known = self._fingerprints
        found = []
        for pair in zip(columns["error_class"], columns["error_message"], strict=True):
            name = known.get(pair)
            if name is None:
                name = self._fingerprint(*pair) if pair != ("", "") else ""
                known[pair] = name
            found.append(name)
        return found


def _uuid_bytes(digest: bytes) -> bytes:
    """16 bytes of hash as a UUIDv8 (RFC 9562, section 5.8): our own recipe, marked as such."""
    value = bytearray(digest)
    value[6] = value[6] & 0x0F | 0x80
    value[8] = value[8] & 0x3F | 0x80
    return bytes(value)


def _split(features: list[dict[str, Any]]) -> tuple[list[dict[str, float]], list[dict[str, str]]]:
    """Numeric and text features of each row."""
    numbers: list[dict[str, float]] = []
    texts: list[dict[str, str]] = []
    for one in features:
        words = {key: value for key, value in one.items() if type(value) is str}
        texts.append(words)
        numbers.append({key: value for key, value in one.items() if key not in words} if words else one)
    return numbers, texts


def _is_row(line: bytes) -> bool:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) and not isinstance(value.get("traces"), list)


def _document(raw: bytes) -> list[Any]:
    try:
        value = decode(raw)
    except JsonError as error:
        raise _invalid("bad_json", str(error)) from None
    if isinstance(value, dict) and set(value) == {"traces"}:
        value = value["traces"]
    elif isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise _invalid("bad_import", 'send an array of traces, {"traces": [...]} or one JSON object on each line')
    return value


def _invalid(code: str, message: str) -> Invalid:
    return Invalid(message, [Fault("$", code, message)])
