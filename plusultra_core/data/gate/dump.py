"""The gate: a dump is somebody else's file. It is opened read-only, asked only harmless questions, and judged."""

import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from plusultra_core.clock import now_ns
from plusultra_core.data.gate.connection import GateConfig, connect, sqlite_finding
from plusultra_core.data.gate.findings import DumpReport, Finding
from plusultra_core.market import MarketConfig

if TYPE_CHECKING:
    from plusultra_core.data.tables import DataConfig


_MAGIC = b"SQLite format 3\0"
_JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"


def check_dump(
    path: Path, cfg: "DataConfig", markets: Mapping[str, MarketConfig], landing: Path | None = None, now: int | None = None
) -> DumpReport:
    """Judge a dump; never raises for what is wrong with the file, the findings say it.

    `landing`, where given, is the folder the file must lie in. `now` (ns) bounds the timestamps; the wall clock by default.
    """
    if finding := check_file(path, cfg.gate, landing):
        return DumpReport(False, (finding,))
    before = path.stat()
    with at_rest(path) as quiet:
        report = check_content(quiet, cfg, markets, now)
    after = path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        return DumpReport(False, (_file_finding("unstable", f"{path.name}: the file changed while it was read; wait until it is written"),))
    return report


def check_file(path: Path, gate: GateConfig, landing: Path | None = None) -> Finding | None:
    """What is wrong with the file itself, before SQLite sees it."""
    name = path.name
    try:
        status = path.lstat()
    except OSError as error:
        return _file_finding("missing_file", f"{name}: cannot be read ({error.strerror}); name a file that exists")
    if stat.S_ISLNK(status.st_mode):
        return _file_finding("symlink", f"{name}: expected a regular file, found a symbolic link; copy the dump itself")
    if not stat.S_ISREG(status.st_mode):
        return _file_finding("not_regular", f"{name}: expected a regular file, found something else; copy the dump itself")
    if landing is not None and landing.resolve() not in path.resolve().parents:
        return _file_finding("outside", f"{name}: lies outside the landing folder; copy it there")
    if status.st_size > gate.max_file_mb * 1_000_000:
        return _file_finding(
            "too_large", f"{name}: {status.st_size} bytes; allowed {gate.max_file_mb} MB; raise gate.max_file_mb or split the dump"
        )
    try:
        with path.open("rb") as file:
            header = file.read(100)
        with path.with_name(name + "-journal").open("rb") as file:
            journal = file.read(8)
    except FileNotFoundError:
        journal = b""
    except OSError as error:
        return _file_finding("unreadable", f"{name}: cannot be read ({error.strerror}); give read permission")
    if len(header) < 100 or not header.startswith(_MAGIC):
        return _file_finding("not_a_database", f"{name}: expected a SQLite 3 file, found {header[:16]!r}; export the data as SQLite")
    if journal == _JOURNAL_MAGIC:
        return _file_finding(
            "hot_journal", f"{name}: a hot journal lies beside it (a writer was cut off); open it once with its writer, or copy it again"
        )
    return None if has_log(path) else _check_length(name, header, status.st_size)


def has_log(path: Path) -> bool:
    """Whether a write-ahead log with content lies beside the file."""
    log = path.with_name(path.name + "-wal")
    return log.exists() and log.stat().st_size > 0


@contextmanager
def at_rest(path: Path) -> Iterator[Path]:
    """The file itself, or a private copy where it is in WAL mode without a log: SQLite would leave a log beside it."""
    with path.open("rb") as file:
        in_wal_mode = file.read(20)[18:20] == b"\x02\x02"
    if not in_wal_mode or has_log(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="plusultra-") as folder:
        copy = Path(folder) / "dump.sqlite"
        shutil.copyfile(path, copy)
        leave_wal_mode(copy)
        yield copy


def leave_wal_mode(copy: Path) -> None:
    """Mark a private copy without a log as one that never had one, so that it can be read where nothing can be written."""
    with copy.open("r+b") as file:
        file.seek(18)
        file.write(b"\x01\x01")


def _check_length(name: str, header: bytes, size: int) -> Finding | None:
    page_size = int.from_bytes(header[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size
    pages = int.from_bytes(header[28:32], "big")
    in_header = header[24:28] == header[92:96] and pages > 0
    if in_header and pages * page_size != size:
        expected = f"{pages} pages of {page_size} bytes = {pages * page_size} bytes"
        return _file_finding("truncated", f"{name}: expected {expected}, found {size}; copy it again")
    return None


def _file_finding(code: str, message: str) -> Finding:
    return Finding("error", code, "", None, message)


def check_content(path: Path, cfg: "DataConfig", markets: Mapping[str, MarketConfig], now: int | None = None) -> DumpReport:
    """Judge what is inside a SQLite file whose outside has been judged."""
    from plusultra_core.data.gate.validation import inspect  # the rules stand above the gate and use its connection

    try:
        with connect(path, cfg.gate) as db:
            damage = [row[0] for row in db.execute("PRAGMA quick_check(3)")]
            if damage != ["ok"]:
                return DumpReport(
                    False, (Finding("error", "corrupt", "", None, f"dump: the database is damaged ({'; '.join(damage)}); copy it again"),)
                )
            return inspect(db, cfg, markets, now_ns() if now is None else now)
    except sqlite3.Error as error:
        return DumpReport(False, (sqlite_finding("", error),))
