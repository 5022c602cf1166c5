"""Figures for Prometheus."""

from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from core.journal import RunWrite


@dataclass(frozen=True, slots=True)
class Figures:
    """What is read at the moment when somebody asks.

    Attributes:
        groups: of the node groups that workers serve, (group, queued, running, workers); the same in all processes.
    """

    active_runs: int
    traces_shipped: int
    traces_failing: bool
    waiting_runs: int
    waiting_for_limits: int
    cache_hits: int
    cache_misses: int
    groups: Sequence[tuple[str, int, int, int]] = ()


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
        self._failing = Gauge("reflux_traces_failing", "1 while the trace store is away.", registry=self.registry)
        self._waits = Gauge("reflux_event_waits", "Steps that wait for an event here.", registry=self.registry)
        self._limited = Gauge("reflux_limit_waits", "Calls that wait at a limit here.", registry=self.registry)
        self._cache = Gauge("reflux_cache_calls", "Cached calls since start.", ["result"], registry=self.registry)
        self._tasks = Gauge(
            "reflux_tasks", "Tasks of workers, by node group and state.", ["group", "state"], registry=self.registry
        )
        self._workers = Gauge("reflux_workers", "Live workers of a node group.", ["group"], registry=self.registry)

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

    def render(self, figures: Figures) -> bytes:
        """The exposition text, with the gauges as they are now."""
        self._active.set(figures.active_runs)
        self._shipped.set(figures.traces_shipped)
        self._failing.set(int(figures.traces_failing))
        self._waits.set(figures.waiting_runs)
        self._limited.set(figures.waiting_for_limits)
        self._cache.labels("hit").set(figures.cache_hits)
        self._cache.labels("miss").set(figures.cache_misses)
        for group, queued, running, workers in figures.groups:
            self._tasks.labels(group, "queued").set(queued)
            self._tasks.labels(group, "running").set(running)
            self._workers.labels(group).set(workers)
        return generate_latest(self.registry)
