"""`reflux insights`: what traces say in figures."""

from typing import Annotated, Any, Literal

import typer

from api.cli.call import Call, Since, Until, command, group

app = group("insights", "What the traces of a window say; default: the last day.", list_by_default=False)

Node = Annotated[str | None, typer.Option(help="One node alone.")]
Workflow = Annotated[str | None, typer.Option(help="One workflow alone.")]
Bucket = Annotated[int | None, typer.Option(min=60, help="Width of a bucket in seconds.")]


def _find(call: Call, kind: str, since: str | None, until: str | None, **query: Any) -> Any:
    return call.server.get(f"/api/v1/insights/{kind}", **{"from": since, "to": until}, **query)


@app.command("reliability")
@command
def reliability(
    call: Call,
    since: Since = None,
    until: Until = None,
    node: Node = None,
    workflow: Workflow = None,
    bucket: Bucket = None,
) -> None:
    """How attempts end, by node and time."""
    found = _find(call, "reliability", since, until, node=node, workflow=workflow, bucket=bucket)
    call.show(found, "node", "bucket", "attempts", "ok", "errors", "timeouts", "error_rate", "p50_ms", "p95_ms")


@app.command("failures")
@command
def failures(
    call: Call,
    since: Since = None,
    until: Until = None,
    node: Node = None,
    workflow: Workflow = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
) -> None:
    """Failures by what they look like, the most frequent first."""
    found = _find(call, "failures", since, until, node=node, workflow=workflow, limit=limit)
    call.show(found, "count", "share", "node", "error_class", "sample_message", "last_seen", "fingerprint")


@app.command("latency")
@command
def latency(
    call: Call,
    since: Since = None,
    until: Until = None,
    node: Node = None,
    workflow: Workflow = None,
    by: Annotated[
        Literal["node", "version", "arm"], typer.Option(help="What else than the node to tell apart.")
    ] = "node",
    bucket: Bucket = None,
) -> None:
    """Latencies in milliseconds by node."""
    found = _find(call, "latency", since, until, node=node, workflow=workflow, by=by, bucket=bucket)
    split = {"node": (), "version": ("node_version",), "arm": ("arm",)}[by]
    call.show(found, "node", *split, "count", "mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms")


@app.command("cost")
@command
def cost(
    call: Call,
    since: Since = None,
    until: Until = None,
    node: Node = None,
    workflow: Workflow = None,
    by: Annotated[Literal["node", "arm", "workflow"], typer.Option(help="What to sum by.")] = "node",
) -> None:
    """What attempts cost in US dollars, the dearest first."""
    found = _find(call, "cost", since, until, node=node, workflow=workflow, by=by)
    split = ("node", "arm") if by == "arm" else (by,)
    call.show(found, *split, "attempts", "successes", "total_usd", "per_attempt_usd", "per_success_usd")


@app.command("trends")
@command
def trends(call: Call, since: Since = None, until: Until = None, node: Node = None, workflow: Workflow = None) -> None:
    """This window against the equal one before, by node."""
    found = _find(call, "trends", since, until, node=node, workflow=workflow)
    call.show(
        found,
        "node",
        ("attempts", lambda row: row["current"]["attempts"]),
        ("before", lambda row: row["previous"]["attempts"]),
        ("error rate", lambda row: row["current"]["error_rate"]),
        ("before", lambda row: row["previous"]["error_rate"]),
        ("p95 ms", lambda row: row["current"]["p95_ms"]),
        ("before", lambda row: row["previous"]["p95_ms"]),
    )
