"""A dump, accepted and kept: a read-only copy under a name made of its content."""

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plusultra_core.artifacts import open_artifact, publish, sha256_bytes, sha256_file
from plusultra_core.data.gate.connection import GateConfig, connect, sqlite_finding
from plusultra_core.data.gate.dump import WAL_MODE, at_rest, check_content, check_file, file_warnings, has_log, leave_wal_mode, stamp
from plusultra_core.data.gate.findings import DumpReport, Finding, refuse
from plusultra_core.data.tables import DataConfig, check_shape, shaped_by
from plusultra_core.errors import ArtifactError, ContractError
from plusultra_core.market import MarketConfig

DATABASE = "dump.sqlite"
"""Name of the copy inside the snapshot."""
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MAX_STEM = 64
_MAX_NAME = 100  # no config names a table with more characters


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An accepted dump; `sha256` is that of the dump's bytes (of the copy, where the dump had a log)."""

    key: str
    path: Path
    sha256: str
    manifest: dict[str, Any]


def snapshot_key(stem: str, sha256: str) -> str:
    """Plain name of a snapshot: the dump's stem without odd characters, and the first 12 hex digits of its sha256."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_")[:_MAX_STEM] or "dump"
    return f"{plain}-{sha256[:12]}"


def take_snapshot(
    path: Path,
    store: Path,
    cfg: DataConfig,
    markets: Mapping[str, MarketConfig],
    landing: Path | None = None,
    now: int | None = None,
    name: str | None = None,
) -> Snapshot:
    """Check a dump and keep a copy; the same dump twice is one snapshot, a refused one leaves nothing.

    It is known by `name`, where that is given, and by the file's own otherwise.

    The copy is made first and it is the copy that is judged, so that nobody can change the dump in between.
    Raises  ContractError with the first findings when the dump is refused; ArtifactError when there is a snapshot of
            the same dump that was taken with other settings.
    """
    if finding := check_file(path, cfg.gate, landing):
        refuse(DumpReport(False, (finding,)), path.name)
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store, prefix=".tmp-") as work:
        copy = Path(work) / DATABASE
        logged = has_log(path)
        before = stamp(path)
        back_up(path, copy, cfg.gate)
        sha256 = sha256_file(copy if logged else path)
        if stamp(path) != before:
            raise ContractError(f"{path.name}: the file changed while it was copied; wait until it is written")
        stem = path.stem if name is None else name
        key = snapshot_key(stem, sha256)
        if (store / key).exists():
            check_shape(store / key, cfg)
            return open_snapshot(store, key)
        made = Path(work) / "made"
        made.mkdir()
        report = check_content(copy, cfg, markets, now, made)
        report = replace(report, findings=(*file_warnings(path), *report.findings))
        refuse(report, path.name)
        unread = _unread(copy, cfg.gate, report.counts)

        def fill(directory: Path) -> None:
            for file in (copy, *made.iterdir()):
                file.rename(directory / file.name)
            for file in (path for path in directory.rglob("*") if path.is_file()):
                file.chmod(0o444)

        about = {"name": stem[:_MAX_STEM], "sha256": sha256, "shaped_by": shaped_by(cfg), "judged_by": judged_by(cfg, markets)}
        about["unread"] = unread
        publish(store, key, fill, {**about, **report.to_dict()})
    return open_snapshot(store, key, verify=False)


def open_snapshot(store: Path, key: str, verify: bool = True) -> Snapshot:
    """A snapshot that was taken before.

    Raises  ArtifactError when there is none of that key or its bytes have changed.
    """
    if not _KEY.fullmatch(key):
        raise ArtifactError(f"snapshot key: expected letters, digits, _ and -, found {key!r}; take the key from the partition")
    artifact = open_artifact(store / key, verify)
    return Snapshot(key, artifact.path, str(artifact.manifest["sha256"]), artifact.manifest)


def judged_by(cfg: DataConfig, markets: Mapping[str, MarketConfig]) -> str:
    """16 hex digits that name what, beside its bytes, decides the findings on a dump; its manifest keeps them."""
    facts = [(name, one.bar, one.calendar, one.session_tz, one.symbol_rules, one.exchange_rules) for name, one in sorted(markets.items())]
    return sha256_bytes(repr((cfg.gate, cfg.validation, cfg.history, cfg.bars, cfg.corporate_actions, facts)).encode())[:16]


def findings_now(taken: Snapshot, cfg: DataConfig, markets: Mapping[str, MarketConfig]) -> tuple[list[dict[str, Any]], bool]:
    """Findings on the dump of a snapshot by the settings of now, as its manifest has them; and whether others had judged it.

    Where others had, the copy is judged again; a snapshot keeps what it was taken with. What was said of the file stays.
    """
    findings: list[dict[str, Any]] = taken.manifest["findings"]
    if taken.manifest.get("judged_by") == judged_by(cfg, markets):
        return findings, False
    of_file = [finding for finding in findings if finding["code"] == WAL_MODE]
    return [*of_file, *(finding.to_dict() for finding in check_content(taken.path / DATABASE, cfg, markets).findings)], True


def _unread(copy: Path, gate: GateConfig, counts: Mapping[str, int]) -> list[str]:
    """Tables that are in the dump and were not read: a config that names one of them wants the snapshot taken again."""
    with connect(copy, gate) as db:
        names = {str(name) for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    return sorted(name for name in names - set(counts) if len(name) <= _MAX_NAME)


def back_up(path: Path, copy: Path, gate: GateConfig) -> None:
    """Copy the file while SQLite keeps writers away; with a log, through SQLite. The copy has no log."""
    try:
        with at_rest(path) as quiet, connect(quiet, gate) as source:
            source.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # from here on no writer touches the file
            if has_log(quiet):
                with closing(sqlite3.connect(copy)) as target:
                    source.backup(target, pages=-1)
            else:
                shutil.copyfile(quiet, copy)
    except sqlite3.Error as error:
        finding: Finding = sqlite_finding("", error)
        refuse(DumpReport(False, (finding,)), path.name)
    leave_wal_mode(copy)
