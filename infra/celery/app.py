"""Celery, with everything switched off that PostgreSQL decides here: results, retries, redelivery, rate limits, ETA.

A message says `{"task": id}`. It may be lost, doubled or late: the table of tasks knows better.
"""

import warnings
from typing import Any

from celery import Celery
from celery.exceptions import SecurityWarning

TASK = "reflux.perform"
_VISIBILITY_SECONDS = 3600

# It means workers that accept pickled messages. Ours accept JSON alone.
warnings.filterwarnings("ignore", category=SecurityWarning)


def queue_of(group: str) -> str:
    """The queue of a node group."""
    return f"reflux.{group}"


def create_celery(broker_url: str, **options: Any) -> Celery:
    """An app of its own; nothing is registered globally. `options` are further Celery settings."""
    app = Celery("reflux", set_as_current=False)
    app.conf.update(
        broker_url=broker_url,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # the default gives up after 100, and the worker ends
        broker_transport_options={
            "visibility_timeout": _VISIBILITY_SECONDS,
            "socket_connect_timeout": 3.0,
            "socket_keepalive": True,
            "retry_on_timeout": True,
            "health_check_interval": 10,
        },
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_acks_late=False,
        task_send_sent_event=False,
        task_create_missing_queues=True,
        task_default_queue="reflux.none",
        worker_prefetch_multiplier=1,
        worker_disable_rate_limits=True,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_detect_quorum_queues=False,
        **options,
    )
    return app
