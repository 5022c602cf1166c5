"""Structured logs, for people or for machines, without anything that must not be written down."""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog

REDACTED = "[redacted]"
_KEYS = re.compile(
    r"(^|[_\-.])(authorization|cookie|set[_-]?cookie|(api|access|secret|private)[_-]?key|secrets?|password|passwd"
    r"|token|credentials?|signature)$",
    re.IGNORECASE,
)
_VALUES = re.compile(
    r"rfx_[A-Za-z0-9_-]{16,}|(?<=\bBearer )\S+|(?<=\bBasic )\S+|(?<=://)[^\s/@]*:[^\s/@]*(?=@)", re.IGNORECASE
)
_DEEPEST = 8


def configure_logging(
    level: Literal["debug", "info", "warning", "error"],
    form: Literal["json", "console"],
    stream: TextIO | None = None,
) -> None:
    """Send all logs, those of libraries included, to `stream` (default: standard error). May be called again."""
    out = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if form == "json":
        last += [structlog.processors.format_exc_info, redact, structlog.processors.JSONRenderer()]
    else:
        colors = out.isatty()
        last += [structlog.processors.format_exc_info, redact, structlog.dev.ConsoleRenderer(colors=colors)]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # These tell of every request, address and query at INFO.
    for name in ("httpx", "httpcore", "sqlalchemy.engine", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A structlog processor: blanks values whose key says that they are secret, and secrets inside other texts."""
    return {key: REDACTED if _is_secret(key) else _clean(value, 0) for key, value in event.items()}


def _is_secret(key: object) -> bool:
    return isinstance(key, str) and _KEYS.search(key) is not None


def _clean(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray):
        return f"[{len(value)} bytes]"
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        return _VALUES.sub(REDACTED, str(value))
    if depth >= _DEEPEST:
        return REDACTED
    if isinstance(value, Mapping):
        return {key: REDACTED if _is_secret(key) else _clean(inner, depth + 1) for key, inner in value.items()}
    return [_clean(inner, depth + 1) for inner in value]
