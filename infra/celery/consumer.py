"""A Celery worker inside this process: it hands the ids in its messages on, and does nothing else."""

import logging
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import structlog
from celery import signals
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from infra.celery.app import TASK, create_celery, queue_of

_log = structlog.get_logger(__name__)

THREADS = 4
"""Messages in hand at once. A thread waits until its task has begun, so few are enough, and few messages are taken
away from other workers that may have a place earlier."""


_RECONNECT_SECONDS = 1.0


class PatientConsumer(Consumer):  # type: ignore[misc]
    """Celery's own, that tries to reach the broker again each second. The original waits up to 30 s between two tries,
    and a signal to stop has to wait with it."""

    def ensure_connected(self, conn: Any) -> Any:
        """The connection, once there is one."""
        connected = conn.ensure_connection(
            self._away,
            None,
            interval_start=_RECONNECT_SECONDS,
            interval_step=0,
            interval_max=_RECONNECT_SECONDS,
            callback=maybe_shutdown,
        )
        self.first_connection_attempt = False
        return connected

    def _away(self, error: Exception, interval: float) -> None:
        del interval
        _log.warning("the broker does not answer", error=type(error).__name__)


class CeleryConsumer:
    """See the module.

    Args:
        groups: node groups, whose queues are consumed.
        take: given each id, in one of several threads; the next message comes when it returns.
        on_ready: told when the broker is connected and messages come.
        on_stopping: told when a signal has ended the consuming; then `take` should return soon.
    """

    def __init__(
        self,
        broker_url: str,
        groups: Sequence[str],
        take: Callable[[UUID], None],
        on_ready: Callable[[], None],
        on_stopping: Callable[[], None],
    ) -> None:
        self._queues = [queue_of(group) for group in groups]
        self._on_ready = on_ready
        self._on_stopping = on_stopping
        self._app = create_celery(
            broker_url,
            worker_pool="threads",
            worker_concurrency=THREADS,
            worker_consumer=f"{__name__}:{PatientConsumer.__name__}",
        )

        def perform(task: str) -> None:
            take(UUID(task))

        self._app.task(perform, name=TASK, ignore_result=True)

    def run(self, name: str) -> None:
        """Consume until SIGTERM or SIGINT. Only in the main thread, which gets the signals."""
        signals.worker_shutting_down.connect(self._stopping, weak=False)
        signals.setup_logging.connect(_leave_logging, weak=False)
        # At INFO they tell of each message twice.
        for library in ("celery", "kombu"):
            logging.getLogger(library).setLevel(logging.WARNING)
        worker = self._app.Worker(
            hostname=name,
            queues=self._queues,
            quiet=True,
            ready_callback=lambda _: self._on_ready(),
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        worker.start()

    def _stopping(self, **_: Any) -> None:
        self._on_stopping()


def _leave_logging(**_: Any) -> None:
    """Connected, so that Celery does not configure logging itself."""
