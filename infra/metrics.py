"""Figures for Prometheus."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from core.journal import RunWrite


class Metrics:
    """The counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._commits = Counter("reflux_commits", "Journal transactions committed.", registry=self.registry)
        self._events = Counter("reflux_events", "Run events committed.", registry=self.registry)
        self._batch = Histogram(
            "reflux_commit_runs",
            "Runs in one transaction.",
            registry=self.registry,
            buckets=(1, 2, 5, 10, 50, 200, 1000),
        )
        self._runs = Counter("reflux_runs", "Runs by what became of them.", ["status"], registry=self.registry)
        self._started = Counter("reflux_runs_started", "Runs accepted.", registry=self.registry)
        self._active = Gauge("reflux_runs_active", "Runs that this process drives.", registry=self.registry)
        self._shipped = Gauge("reflux_traces_shipped", "Trace rows shipped since start.", registry=self.registry)
        self._waiting = Gauge("reflux_traces_failing", "1 while the trace store is away.", registry=self.registry)

    def committed(self, writes: Sequence[RunWrite]) -> None:
        """A journal transaction has committed."""
        self._commits.inc()
        self._batch.observe(len(writes))
        self._events.inc(sum(len(write.events) for write in writes))
        for write in writes:
            if write.created is not None:
                self._started.inc()
            if write.status is not None and write.status.final:
                self._runs.labels(write.status.value).inc()

    def render(self, active: int, shipped: int, failing: bool) -> bytes:
        """The exposition text, with the gauges as they are now."""
        self._active.set(active)
        self._shipped.set(shipped)
        self._waiting.set(int(failing))
        return generate_latest(self.registry)
