"""Progress of a run at a terminal: a line an asset, what a child process reports indented below it."""

import logging
import os
import textwrap
import time
from typing import TextIO

import dagster as dg

_SLOW_CHECK_S = 2.0
_WIDTH = 130


def terminal() -> TextIO:
    """Standard output as it is now: Dagster redirects the descriptor while a step runs."""
    return os.fdopen(os.dup(1), "w", buffering=1)


class ProgressHandler(logging.Handler):
    """Turns the events of a run into lines."""

    def __init__(self, stream: TextIO, assets: frozenset[str]) -> None:
        super().__init__()
        self._stream = stream
        self._assets = assets
        self._started: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """One record of the run's log."""
        meta = getattr(record, "dagster_meta", {})
        event, step = meta.get("dagster_event"), str(meta.get("step_key") or "")
        if event is None:
            text = str(meta.get("orig_message", record.getMessage())).strip()
            if step and record.levelno == logging.INFO and not text.startswith("[pipes]"):
                self.say("      " + textwrap.shorten(text, _WIDTH, placeholder=" ..."))
            return
        kind = event.event_type_value
        if kind == "STEP_START":
            self._started[step] = time.monotonic()
        elif kind in ("STEP_SUCCESS", "STEP_FAILURE"):
            self._ended(step, kind == "STEP_SUCCESS", time.monotonic() - self._started.pop(step, time.monotonic()))

    def _ended(self, step: str, well: bool, seconds: float) -> None:
        if step in self._assets:
            self.say(f"    {step:<24} {seconds:7.1f} s{'' if well else '   FAILED'}")
        elif not well:
            self.say(f"    {step:<24} {seconds:7.1f} s   CHECK FAILED")
        elif seconds >= _SLOW_CHECK_S:
            self.say(f"      check {step} {seconds:.1f} s")

    def say(self, line: str) -> None:
        """Write a line at once."""
        self._stream.write(line + "\n")
        self._stream.flush()


def progress_logger(handler: logging.Handler) -> dg.LoggerDefinition:
    """A Dagster logger that feeds the handler."""

    @dg.logger
    def progress(context: dg.InitLoggerContext) -> logging.Logger:
        logger = logging.Logger("plusultra.progress", level=logging.DEBUG)
        logger.addHandler(handler)
        return logger

    return progress
