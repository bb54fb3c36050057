"""Logs of both processes: lines for people, or JSON for machines."""

import logging
import sys
import warnings
from typing import Literal

from pythonjsonlogger.json import JsonFormatter


def configure(level: str, log_format: str, process: Literal["api", "worker"]) -> None:
    """Log to standard error: our own loggers at ``level``, all others from warnings on.

    ``log_format`` is ``text``, ``json``, or ``auto``: text on a terminal and JSON elsewhere. In
    JSON a line has ``time``, ``level``, ``process``, ``logger``, ``message`` and what else is known
    where it is written, such as ``request_id``. Faults of an upload or of a header concern their
    sender, who is told, and not the log.
    """
    if log_format == "auto":
        log_format = "text" if sys.stderr.isatty() else "json"
    where = "" if process == "api" else f" {process}:"
    formatter = logging.Formatter(f"%(asctime)s %(levelname)s{where} %(message)s")
    if log_format == "json":
        formatter = JsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            static_fields={"process": process},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("app").setLevel(level.upper())
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("opentelemetry.trace.propagation").setLevel(logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"PIL\.")
