"""Sends messages from a thread of its own: Celery and its transports block."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from celery.exceptions import OperationalError as CeleryError
from kombu.exceptions import KombuError

from core.errors import Unavailable
from infra.celery.app import TASK, create_celery, queue_of


class CeleryPublisher:
    """See `engine.remote.ports.Publisher`. Does not connect before the first message."""

    def __init__(self, broker_url: str) -> None:
        self._app = create_celery(
            broker_url,
            broker_pool_limit=1,
            task_publish_retry=True,
            # Once more at once: after a restart of the broker the first use of a connection always fails.
            task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0},
        )
        self._app.conf.broker_transport_options["socket_timeout"] = 5.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publisher")

    async def publish(self, messages: Sequence[tuple[str, UUID]]) -> None:
        """Send one message for each (group, task). Raises Unavailable; some of them may have gone out then."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._send, messages)

    async def aclose(self) -> None:
        """Close the connection."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._app.close)
        self._thread.shutdown()

    def _send(self, messages: Sequence[tuple[str, UUID]]) -> None:
        try:
            with self._app.producer_or_acquire() as producer:
                for group, task_id in messages:
                    self._app.send_task(
                        TASK,
                        kwargs={"task": str(task_id)},
                        task_id=str(task_id),
                        queue=queue_of(group),
                        producer=producer,
                        ignore_result=True,
                    )
        except (CeleryError, KombuError, OSError) as error:
            raise Unavailable(f"the broker does not answer ({type(error).__name__})") from error
