"""A server that speaks ClickHouse's HTTP interface, with the real engine (chDB) behind it.

    python tests/clickhouse_server.py --dir D --port P [--password X]

`POST /_control?drop=N` executes the next N inserts and closes the connection without an answer; `hang=S` executes the
next insert and keeps silent for S seconds. Both leave a client in doubt, as a real network does.
"""

import argparse
import base64
import email
import email.policy
import gzip
import json
import re
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import backports.zstd
import chdb
import lz4.frame

TRANSPORT = {
    "query", "database", "default_format", "compress", "decompress", "query_id", "session_id", "session_timeout",
    "session_check", "wait_end_of_query", "client_protocol_version", "buffer_size", "quota_key", "role",
    "send_progress_in_http_headers", "http_headers_progress_interval_ms", "enable_http_compression", "user", "password",
}  # fmt: skip
DECODERS = {"gzip": gzip.decompress, "zstd": backports.zstd.decompress, "lz4": lz4.frame.decompress}
INSERT = re.compile(
    rb"\s*INSERT\s+INTO\s+(?P<into>.+?)\s+FORMAT\s+(?P<format>\w+)\s*(?:\n|$)", re.IGNORECASE | re.DOTALL
)
FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
CODE = re.compile(r"Code:\s*(\d+)")


def quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Engine:
    def __init__(self, directory: Path) -> None:
        self.connection = chdb.connect(str(directory))
        self.lock = threading.Lock()

    def run(self, sql: bytes, data: bytes, parameters: dict[str, str]) -> tuple[bytes, str]:
        settings = {k: v for k, v in parameters.items() if k not in TRANSPORT and not k.startswith("param_")}
        bound = {k.removeprefix("param_"): v for k, v in parameters.items() if k.startswith("param_")}
        with self.lock:
            self.connection.query(f"USE `{parameters.get('database', 'default')}`")
            insert = INSERT.match(sql)
            if insert:
                return self._insert(insert, data or sql[insert.end() :], settings), "Null"
            given = FORMAT.search(sql)
            form = given[1].decode() if given else parameters.get("default_format", "TabSeparated")
            for name, value in settings.items():
                self.connection.query(f"SET {name} = {quoted(value)}")
            try:
                return self.connection.query(sql.decode(), form, params=bound).bytes() or b"", form
            finally:
                for name in settings:
                    self.connection.query(f"SET {name} = DEFAULT")

    def _insert(self, insert: re.Match[bytes], data: bytes, settings: dict[str, str]) -> bytes:
        clause = ", ".join(f"{name} = {quoted(value)}" for name, value in settings.items())
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            self.connection.query(
                f"INSERT INTO {insert['into'].decode()} FROM INFILE {quoted(file.name)}"
                + (f" SETTINGS {clause}" if clause else "")
                + f" FORMAT {insert['format'].decode()}"
            )
        return b""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: Engine
    password: str
    drop = 0
    hang = 0.0

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/ping":
            self.answer(200, b"Ok.\n", {})
        else:
            self.do_POST()

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        parameters = dict(parse_qsl(url.query, keep_blank_values=True))
        body = self.body()
        if url.path == "/_control":
            Handler.drop = int(parameters.get("drop", 0))
            Handler.hang = float(parameters.get("hang", 0))
            self.answer(200, b"", {})
            return
        if not self.allowed():
            self.fail("Code: 516. DB::Exception: Authentication failed. (AUTHENTICATION_FAILED)", 403)
            return
        content_type = self.headers.get("Content-Type", "")
        if content_type.startswith("multipart/form-data"):
            parameters |= form_fields(content_type, body)
            body = b""
        sql = parameters.get("query", "").encode()
        if not sql:
            sql, body = body, b""
        try:
            result, form = self.engine.run(sql, body, parameters)
        except chdb.ChdbError as error:  # the engine's own error type is what the protocol passes on
            self.fail(str(error), 500)
            return
        if INSERT.match(sql) and self.in_doubt():
            return
        self.answer(200, result, {"X-ClickHouse-Format": form, "X-ClickHouse-Timezone": "UTC"})

    def in_doubt(self) -> bool:
        if Handler.drop > 0:
            Handler.drop -= 1
        elif Handler.hang > 0:
            seconds, Handler.hang = Handler.hang, 0.0
            time.sleep(seconds)
        else:
            return False
        self.close_connection = True
        return True

    def allowed(self) -> bool:
        if not self.password:
            return True
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        return kind == "Basic" and base64.b64decode(value).decode().partition(":")[2] == self.password

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        decode = DECODERS.get(self.headers.get("Content-Encoding", ""))
        return decode(data) if decode else data

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        if data and "gzip" in self.headers.get("Accept-Encoding", "") and "enable_http_compression=1" in self.path:
            data = gzip.compress(data, 1)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-ClickHouse-Summary", json.dumps({"written_rows": "0"}))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def fail(self, message: str, status: int) -> None:
        found = CODE.search(message)
        self.answer(status, message.encode(), {"X-ClickHouse-Exception-Code": found[1] if found else "1000"})


def form_fields(content_type: str, body: bytes) -> dict[str, str]:
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    fields = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        fields[str(name)] = payload.decode() if isinstance(payload, bytes) else ""
    return fields


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--dir", type=Path, required=True)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--password", default="")
    given = arguments.parse_args()
    Handler.engine = Engine(given.dir)
    Handler.password = given.password
    server = ThreadingHTTPServer(("127.0.0.1", given.port), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
