"""Every refusal is a problem document with the right status, and none of them costs the server anything."""

import http.client
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.api.conftest import API, create, one_step, problem
from tests.server import RunningServer

JSON = {"Content-Type": "application/json"}
YAML = {"Content-Type": "application/yaml"}
NOBODY = "00000000-0000-0000-0000-000000000000"
BIG = 50 * 1024 * 1024


class TestWho:
    @pytest.mark.parametrize(
        "header",
        [None, "Bearer rfx_this_is_not_a_key", "Bearer", "Basic YTpi", "rfx_x", "Bearer a b", "Bearer \xff"],
    )
    @pytest.mark.parametrize("path", ["/workflows", "/runs", "/api-keys", "/triggers", "/traces", "/insights/cost"])
    def test_without_a_valid_key(self, server: RunningServer, header: str | None, path: str) -> None:
        headers = {} if header is None else {"Authorization": header.encode("latin-1")}
        answer = httpx.get(server.url + API + path, headers=headers, trust_env=False)
        problem(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert "not_a_key" not in answer.text

    def test_nothing_is_read_without_a_key(self, server: RunningServer) -> None:
        """Of all that the document knows, except webhooks: those may be signed instead."""
        document = httpx.get(f"{server.url}{API}/openapi.json", trust_env=False).json()
        with server.client("") as nobody:
            for path, methods in document["paths"].items():
                for method in methods:
                    if "security" not in methods[method] or "/webhooks/" in path:
                        continue
                    place = path.replace("{run_id}", NOBODY).replace("{trigger_id}", NOBODY)
                    place = re.sub(r"\{\w+\}", "x", place)
                    problem(nobody.request(method.upper(), place), 401)

    def test_a_viewer_reads_and_does_not_write(
        self, api: httpx.Client, server: RunningServer, key_of: Callable[[str], str], name: str
    ) -> None:
        create(api, one_step(name))
        with server.client(key_of("viewer")) as viewer:
            reads = ("/runs", "/nodes", "/traces", "/secrets", "/triggers", "/events", "/limits", "/cache", "/workers")
            for path in ("/workflows", f"/workflows/{name}", "/variables", *reads):
                assert viewer.get(API + path).status_code == 200, path
            writes = [
                ("POST", "/workflows", one_step(name)),
                ("PUT", f"/workflows/{name}", one_step(name)),
                ("DELETE", f"/workflows/{name}", None),
                ("POST", f"/workflows/{name}/publish", {"version": 1}),
                ("POST", f"/workflows/{name}/execute", {}),
                ("POST", f"/runs/{NOBODY}/cancel", {}),
                ("POST", f"/runs/{NOBODY}/steps/a/resolve", {"outcome": "failed"}),
                ("POST", "/runs/bulk", {"action": "cancel", "run_ids": [NOBODY]}),
                ("POST", "/nodes", {}),
                ("POST", "/nodes/a.b/versions/1.0.0/promote", None),
                ("POST", "/nodes/a.b/versions/1.0.0/deprecate", None),
                ("PUT", "/nodes/a.b/route", {}),
                ("DELETE", "/nodes/a.b/route", None),
                ("POST", "/nodes/a.b/route/revert", {}),
                ("PUT", "/nodes/http.request/limits", {"concurrency": 1}),
                ("DELETE", "/nodes/http.request/limits", None),
                ("DELETE", "/cache?all=true", None),
                ("PUT", "/variables/a", {"value": 1}),
                ("DELETE", "/variables/a", None),
                ("POST", "/triggers", {"workflow": name, "type": "manual"}),
                ("POST", f"/triggers/{NOBODY}/fire", {}),
                ("POST", f"/triggers/{NOBODY}/pause", None),
                ("DELETE", f"/triggers/{NOBODY}", None),
                ("POST", "/events", {"name": "a"}),
                ("POST", "/secrets", {"name": "A", "value": "long enough"}),
                ("DELETE", "/secrets/A", None),
                ("POST", "/traces", []),
                ("POST", "/api-keys", {"name": "x", "role": "admin"}),
                ("GET", "/api-keys", None),
                ("GET", "/audit", None),
            ]
            for method, path, body in writes:
                problem(viewer.request(method, API + path, json=body), 403)
        assert api.get(f"/workflows/{name}").json()["version"] == 1

    def test_an_editor_does_not_make_keys(self, server: RunningServer, key_of: Callable[[str], str], name: str) -> None:
        with server.client(key_of("editor")) as editor:
            assert editor.post(API + "/workflows", json=one_step(name)).status_code == 201
            problem(editor.post(API + "/api-keys", json={"name": "x", "role": "viewer"}), 403)
            problem(editor.get(API + "/api-keys"), 403)

    def test_keys_are_shown_once_and_refused_at_once_when_revoked(
        self, api: httpx.Client, server: RunningServer
    ) -> None:
        made = api.post("/api-keys", json={"name": "short-lived", "role": "viewer"}).json()
        with server.client(made["key"]) as holder:
            assert holder.get(API + "/workflows").status_code == 200
            assert api.delete(f"/api-keys/{made['id']}").status_code == 204
            problem(holder.get(API + "/workflows"), 401)
        listed = api.get("/api-keys")
        assert made["key"] not in listed.text
        mine = next(one for one in listed.json()["items"] if one["id"] == made["id"])
        assert mine["revoked_at"]
        assert "key" not in mine

    def test_acts_are_in_the_audit_log(self, api: httpx.Client, name: str) -> None:
        create(api, one_step(name))
        api.delete(f"/workflows/{name}")
        key = api.post("/api-keys", json={"name": name, "role": "viewer"}).json()
        api.delete(f"/api-keys/{key['id']}")
        api.post("/secrets", json={"name": name.upper(), "value": "something long"})
        entries = api.get("/audit", params={"limit": 100}).json()["items"]
        acts = {(one["action"], one["target"]) for one in entries}
        assert {
            ("workflow.save", name),
            ("workflow.delete", name),
            ("api_key.create", key["id"]),
            ("api_key.revoke", key["id"]),
            ("secret.put", name.upper()),
        } <= acts
        assert all(one["actor"] and one["at"] for one in entries)
        assert key["key"] not in str(entries)


class TestWhere:
    @pytest.mark.parametrize(
        "path",
        [
            "/workflows/nobody",
            f"/workflows/{NOBODY}",
            "/workflows/nobody/versions",
            f"/runs/{NOBODY}",
            f"/runs/{NOBODY}/events",
            f"/runs/{NOBODY}/stream",
            f"/runs/{NOBODY}/export",
            "/nodes/no.node",
            "/nodes/http.request/versions/9.9.9",
            "/nodes/http.request/route",
            "/nodes/no.node/route",
            "/nodes/no.node/route/revisions",
            "/nodes/http.request/limits",
            f"/triggers/{NOBODY}",
            f"/triggers/{NOBODY}/firings",
            f"/triggers/{NOBODY}/preview",
            "/triggers?workflow=nobody",
            "/webhooks/nobody",
            "/runs?workflow=nobody",
            "/nothing",
            "/workflows/a/b/c/d",
        ],
    )
    def test_not_there(self, api: httpx.Client, path: str) -> None:
        problem(api.get(path), 404)

    def test_not_there_for_writes(self, api: httpx.Client) -> None:
        problem(api.post("/workflows/nobody/execute", json={}), 404)
        problem(api.post(f"/runs/{NOBODY}/cancel", json={}), 404)
        problem(api.delete("/workflows/nobody"), 404)
        problem(api.delete("/secrets/NOBODY"), 404)
        problem(api.delete("/variables/nobody"), 404)
        problem(api.delete(f"/triggers/{NOBODY}"), 404)
        problem(api.post(f"/triggers/{NOBODY}/fire", json={}), 404)
        problem(api.post("/triggers", json={"workflow": "nobody", "type": "manual"}), 404)
        problem(api.put("/nodes/no.node/route", json={"arms": [{"version": "1.0.0"}]}), 404)
        problem(api.delete("/nodes/http.request/route"), 404)
        problem(api.post("/nodes/http.request/route/revert", json={}), 404)
        problem(api.put("/nodes/no.node/limits", json={"concurrency": 1}), 404)
        problem(api.delete("/nodes/http.request/limits"), 404)
        problem(api.post("/nodes/no.node/versions/1.0.0/promote"), 404)
        problem(api.delete(f"/api-keys/{NOBODY}"), 404)

    def test_wrong_method(self, api: httpx.Client) -> None:
        answer = api.patch("/workflows", json={})
        assert "PATCH" in problem(answer, 405)["detail"]
        assert answer.headers["allow"] == "GET, POST"

    @pytest.mark.parametrize("path", ["/workflows/%00", "/nodes/a%00b", "/workflows?search=%00", "/traces?node=a%00"])
    def test_nul_in_the_address(self, api: httpx.Client, path: str) -> None:
        problem(api.get(path), 400)


class TestBodies:
    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b'{"name": "a",}',
            b"\xff\xfe",
            b'{"a": "\xff"}',
            b'{"a": "\\ud800"}',
            b'{"a": NaN}',
            b'{"a": 1e999}',
            b"[" * 500 + b"]" * 500,
            b"[" * 200_000,
            b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
            b"\x00",
        ],
    )
    @pytest.mark.parametrize("path", ["/workflows", "/workflows/validate", "/secrets", "/traces"])
    def test_what_is_no_json(self, api: httpx.Client, path: str, body: bytes) -> None:
        problem(api.post(path, content=body, headers=JSON), 400)

    @pytest.mark.parametrize(
        "body",
        [
            b"a: [",
            b"a: 'x",
            b"- " * 3000 + b"x",
            b"[" * 100_000,
            b"\xff\xfe\xff",
            b"a: !!python/object/apply:os.system [id]",
            b"a: &a [*a]",
            b"a: 123456789012345678901234567890",
            b"a: .inf",
            b'a: "\\ud800"',
            b"a: 1\n---\nb: 2",
            b"1: a",
            b"a: *nobody",
            b"a: &a [x, x, x, x, x, x, x, x, x]\n"
            + b"".join(b"%c: &%c [%s]\n" % (i + 98, i + 98, b", ".join([b"*%c" % (i + 97)] * 9)) for i in range(12)),
        ],
    )
    def test_what_is_no_yaml(self, api: httpx.Client, body: bytes) -> None:
        answer = api.post("/workflows", content=body, headers=YAML)
        problem(answer, 400)
        assert answer.elapsed.total_seconds() < 1

    @pytest.mark.parametrize("kind", ["text/xml", "multipart/form-data; boundary=x", "application/octet-stream"])
    def test_other_media_types(self, api: httpx.Client, kind: str) -> None:
        problem(api.post("/workflows", content=b"<a/>", headers={"Content-Type": kind}), 415)

    def test_packed_bodies(self, api: httpx.Client) -> None:
        problem(api.post("/workflows", content=b"\x1f\x8b", headers={**JSON, "Content-Encoding": "gzip"}), 415)

    def test_faults_of_input(self, api: httpx.Client, name: str) -> None:
        spec = {
            **one_step(name),
            "inputs": {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}},
        }
        create(api, spec)
        found = problem(api.post(f"/workflows/{name}/execute", json={"input": {"x": "text"}}), 422)
        assert found["faults"][0]["path"] == "$.input.x"
        assert problem(api.post(f"/workflows/{name}/execute", json={"inptu": {}}), 422)["faults"]
        assert problem(api.post(f"/workflows/{name}/execute?wait=nan", json={}), 422)["faults"]
        assert problem(api.post("/workflows", content=b"", headers=JSON), 422)["faults"]
        for unit_key in ("k" * 257, "a NUL \x00 is no text for PostgreSQL"):
            body = {"input": {"x": 1}, "unit_key": unit_key}
            assert problem(api.post(f"/workflows/{name}/execute", json=body), 422)["faults"]
        many = {"input": {"x": 1}, "context": {f"c{i}": "x" for i in range(65)}}
        assert problem(api.post(f"/workflows/{name}/execute", json=many), 422)["faults"]

    @pytest.mark.parametrize(
        ("method", "path", "body", "place"),
        [
            ("PUT", "/nodes/http.request/route", {"arms": []}, "$.arms"),
            ("PUT", "/nodes/http.request/route", {"arms": [{"version": "9.9.9"}]}, "$.arms[0].version"),
            ("PUT", "/nodes/http.request/route", {"arms": [{"version": "1.0.0", "weight": 0.5}]}, "$.arms"),
            ("PUT", "/nodes/http.request/limits", {}, "$"),
            ("PUT", "/nodes/http.request/limits", {"concurrency": 0}, "$.concurrency"),
            ("PUT", "/nodes/http.request/limits", {"rate": {"calls": 1, "per": "0s"}}, "$.rate.per"),
            ("PUT", "/variables/a", {}, "$.value"),
            ("PUT", "/variables/a", {"value": 1, "scope": "run"}, "$.scope"),
            ("PUT", "/variables/a", {"value": 1, "scope": "workflow"}, "$.workflow"),
            ("PUT", "/variables/a", {"value": 1, "ttl": "soon"}, "$.ttl"),
            ("POST", "/events", {"payload": 1}, "$.name"),
            ("POST", "/events", {"name": "two words"}, "$.name"),
            ("POST", "/triggers", {"type": "cron"}, "$.workflow"),
            ("POST", "/triggers", {"workflow": "x", "type": "timer"}, "$.type"),
            ("POST", "/triggers", {"workflow": "x", "type": "cron", "schedule": "61 * * * *"}, "$.schedule"),
            ("POST", "/triggers", {"workflow": "x", "type": "webhook"}, "$.path"),
            ("DELETE", "/cache", None, "$.query"),
            ("POST", "/runs/bulk", {"action": "stop"}, "$.action"),
            ("POST", "/nodes", {"name": "a.b", "version": "1", "base": "http.request"}, "$.version"),
            ("POST", "/nodes", {"name": "a.b", "version": "1.0.0", "base": "http.reqest"}, "$.base"),
        ],
    )
    def test_faults_name_their_place(self, api: httpx.Client, method: str, path: str, body: Any, place: str) -> None:
        found = problem(api.request(method, path, json=body), 422)
        assert place in [one["path"] for one in found["faults"]], found
        assert all(one["message"] and one["code"] for one in found["faults"])

    @pytest.mark.parametrize(
        ("path", "body", "suggestion"),
        [
            ("/workflows/{}/execute", {"inputs": {}}, "input"),
            ("/events", {"name": "a", "dedupe": "k"}, "dedupe_key"),
            ("/triggers/{}/fire", {"inputs": {}}, "input"),
            ("/runs/{}/steps/a/redrive", {"downstrem": False}, "downstream"),
            ("/triggers", {"workflow": "a", "type": "webhook", "path": "a", "method": "GET"}, "methods"),
            ("/runs/bulk", {"action": "cancel", "filter": {"workflows": "a"}}, "workflow"),
        ],
    )
    def test_a_mistyped_field_is_told_the_right_one(
        self, api: httpx.Client, path: str, body: Any, suggestion: str
    ) -> None:
        found = problem(api.post(path.format(NOBODY), json=body), 422)
        assert [(one["code"], one["suggestion"]) for one in found["faults"]] == [("unknown_field", suggestion)]
        assert f"did you mean `{suggestion}`?" in found["detail"]

    def test_the_detail_says_what_is_wrong(self, api: httpx.Client) -> None:
        """Many clients show nothing else."""
        arms = [{"version": "1.0.0", "weight": 0.5}]
        assert "must sum to 1" in problem(api.put("/nodes/http.request/route", json={"arms": arms}), 422)["detail"]
        wrong = problem(api.post("/workflows/nobody/execute", json={"context": {"a": [1]}}), 422)
        assert wrong["detail"] == "$.context.a: must be a text or true or false or a whole number or a number"
        arms[0]["timeout"] = "5"
        detail = problem(api.put("/nodes/http.request/route", json={"arms": arms}), 422)["detail"]
        assert detail.startswith("$.arms[0].timeout: '5' is not a duration")

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=101", "limit=x", "cursor=x", "from=x", "from=5", "to=0.5", "status=nonsense"]
    )
    def test_faults_of_the_query(self, api: httpx.Client, query: str) -> None:
        assert problem(api.get(f"/runs?{query}"), 422)["faults"]

    def test_a_secret_is_never_echoed(self, api: httpx.Client) -> None:
        value = "do-not-show-this-value"
        for body in (
            {"name": "bad name", "value": value},
            {"name": "A", "value": [value]},
            {"name": "A", "value": {"v": value}},
            {"name": "A", "value": value * 10_000},
            {"name": {"a": value}, "value": "long enough"},
            [value],
            value,
        ):
            answer = api.post("/secrets", json=body)
            problem(answer, 422)
            assert value not in answer.text
        broken = api.post("/secrets", content=json.dumps({"name": "A", "value": value})[:-2], headers=JSON)
        problem(broken, 400)
        assert value not in broken.text


class TestSize:
    @pytest.mark.parametrize("path", ["/workflows", "/workflows/validate", "/traces", "/secrets", "/nothing"])
    def test_declared(self, server: RunningServer, path: str) -> None:
        document = self._by_http_client(server, path, b" " * BIG, {})
        assert document["status"] == 413

    def test_chunked(self, server: RunningServer) -> None:
        document = self._by_http_client(server, "/workflows", self._chunks(), {"Transfer-Encoding": "chunked"})
        assert document["status"] == 413

    def test_by_httpx(self, api: httpx.Client) -> None:
        problem(api.post("/workflows", content=b" " * BIG, headers=JSON), 413)
        problem(api.post("/workflows", content=self._chunks(), headers=JSON), 413)
        assert api.get("/workflows").status_code == 200

    def test_without_a_key(self, server: RunningServer) -> None:
        with server.client("") as nobody:
            assert nobody.post(API + "/workflows", content=b" " * BIG).status_code in (401, 413)

    def test_large_yaml(self, api: httpx.Client) -> None:
        problem(api.post("/workflows", content=b"- x\n" * 500_000, headers=YAML), 413)

    def test_a_body_just_within_the_bound_is_read(self, api: httpx.Client) -> None:
        body = b'{"x": "' + b"a" * (7 * 1024 * 1024) + b'"}'
        problem(api.post("/workflows", content=body, headers=JSON), 422)

    def _chunks(self) -> Iterator[bytes]:
        return (b" " * 1024 * 1024 for _ in range(50))

    def _by_http_client(
        self, server: RunningServer, path: str, body: bytes | Iterator[bytes], headers: dict[str, str]
    ) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json", **headers}
            connection.request("POST", API + path, body, headers, encode_chunked="Transfer-Encoding" in headers)
            answer = connection.getresponse()
            assert answer.status == 413
            assert answer.getheader("content-type") == "application/problem+json"
            document: dict[str, Any] = json.loads(answer.read())
            return document
        finally:
            connection.close()
