"""Alarms between comparisons: the hysteresis of `step_alarm` in one file a class, that outlives restarts; no comparison steps twice."""

import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from plusultra_core.artifacts import canonical_json, sha256_bytes, write_atomic
from plusultra_core.errors import ArtifactError
from plusultra_core.monitoring.drift import Alarm, MonitoringConfig, step_alarm

_SCHEMA = 1
_MAX_SEEN = 256
_SILENT = Alarm("silent", 0)


@dataclass(frozen=True, slots=True)
class AlarmBook:
    """The alarms of one class by `<source>:<feature>`, and the comparisons that made them, newest last."""

    alarms: Mapping[str, Alarm]
    seen: tuple[str, ...]
    num_comparisons: int
    until_ns: int
    """Newest bar ever compared."""

    def firing(self) -> list[str]:
        """Names of the alarms that fire."""
        return sorted(name for name, alarm in self.alarms.items() if alarm.level == "firing")


def load_alarms(path: Path) -> AlarmBook:
    """The book at `path`; an empty one where nothing was ever compared.

    Raises  ArtifactError when the file is something else: alarms are never forgotten quietly.
    """
    if not path.exists():
        return AlarmBook({}, (), 0, 0)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema"] != _SCHEMA or any(entry[0] not in ("silent", "firing") for entry in raw["alarms"].values()):
            raise ValueError("another schema")
        alarms = {str(name): Alarm(level, int(streak)) for name, (level, streak) in raw["alarms"].items()}
        return AlarmBook(alarms, tuple(map(str, raw["seen"])), int(raw["num_comparisons"]), int(raw["until_ns"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: no book of alarms ({error}); restore it, or remove it to start silent") from error


def step_alarms(path: Path, comparisons: Mapping[str, pl.DataFrame], until_ns: int, cfg: MonitoringConfig) -> AlarmBook:
    """Step the alarms of each source by its verdicts and write the book, all sources in one write; what was compared before steps nothing.

    A comparison is named by its source and its numbers, so that a run that is repeated or goes on after a crash counts once. One whose
    newest bar `until_ns` is older than the book's (an old dump, run again) steps nothing. A feature that is compared no more has no alarm.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        book = load_alarms(path)
        if until_ns < book.until_ns:
            return book
        for source, verdicts in sorted(comparisons.items()):
            book = _step(book, source, verdicts, until_ns, cfg)
        raw = {name: [alarm.level, alarm.streak] for name, alarm in sorted(book.alarms.items())}
        content = {"schema": _SCHEMA, "alarms": raw, "seen": list(book.seen), "num_comparisons": book.num_comparisons, "until_ns": until_ns}
        write_atomic(path, canonical_json(content))
    return book


def _step(book: AlarmBook, source: str, verdicts: pl.DataFrame, until_ns: int, cfg: MonitoringConfig) -> AlarmBook:
    rows = verdicts.sort("feature").to_dicts()
    name = f"{source}:{sha256_bytes(canonical_json(rows))[:32]}"
    if name in book.seen:
        return book
    others = {key: alarm for key, alarm in book.alarms.items() if not key.startswith(f"{source}:")}
    keys = {f"{source}:{row['feature']}": str(row["status"]) for row in rows}
    stepped = {key: step_alarm(book.alarms.get(key, _SILENT), status, cfg) for key, status in keys.items()}
    return AlarmBook({**others, **stepped}, (*book.seen, name)[-_MAX_SEEN:], book.num_comparisons + 1, until_ns)
