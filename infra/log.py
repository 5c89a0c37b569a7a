"""One structured logger; `set_up` is called by main functions only, never on import."""

from __future__ import annotations

import logging
import re
import sys
from contextlib import AbstractContextManager

import structlog

_SECRET = re.compile(r"(?i)(password|secret|token|key)=([^&\s]+)|://([^:/@\s]+):([^@\s]+)@")
_API_KEY = re.compile(r"\b(sgp?_[a-z0-9]{12})_[A-Za-z0-9]+")


def _hide_secrets(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Blank passwords in URLs and `name=value` pairs, and API keys, whoever logged them."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = hide_secrets(value)
    return event


def hide_secrets(text: str) -> str:
    """`text` with passwords in URLs, `secret=value` pairs and the secrets of API keys replaced by ***; a key's id stays."""
    return _API_KEY.sub(r"\1_***", _SECRET.sub(lambda m: f"{m[1]}=***" if m[1] else f"://{m[3]}:***@", text))


def set_up(level: str = "INFO", json: bool = False) -> None:
    """Send our logs to stderr, as text for people or as JSON lines for machines."""
    renderer = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,  # before: what a traceback tells is hidden as well
            _hide_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # looked up at each call: a test or a shell may replace it
        cache_logger_on_first_use=False,
    )


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger that names its module."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(module=name)
    return logger


def about(**values: str) -> AbstractContextManager[None]:
    """Let every line that is logged within, by this thread or task, say these values as well."""
    return structlog.contextvars.bound_contextvars(**values)
