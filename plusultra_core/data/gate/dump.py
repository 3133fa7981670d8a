"""The gate: a dump is somebody else's file. It is opened read-only, asked only harmless questions, and judged."""

import os
import shutil
import sqlite3
import stat
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from plusultra_core.clock import now_ns
from plusultra_core.data.gate.connection import GateConfig, connect, long_cells, quote, sqlite_finding
from plusultra_core.data.gate.findings import DumpReport, Finding
from plusultra_core.data.gate.schema import check_schema
from plusultra_core.market import MarketConfig

if TYPE_CHECKING:
    from plusultra_core.data.tables import DataConfig


WAL_MODE = "wal_mode"
"""The one finding on an accepted file that its copy does not show."""
_MAGIC = b"SQLite format 3\0"
_JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
_LOG_MAGICS = (0x377F0682, 0x377F0683)
_WAL_MODE = b"\x02\x02"
_NO_DAMAGE = "NULL value in "
"""The rules say what may be NULL. SQLite before 3.41 sees NULLs in any table WITHOUT ROWID whose key is not its first columns."""
_JOURNAL, _LOG, _INDEX = "-journal", "-wal", "-shm"
_OTHERS = {
    b"\x1f\x8b": "a gzip file; unpack it",
    b"PK\x03\x04": "a zip file; unpack it",
    b"(\xb5/\xfd": "a Zstandard file; unpack it",
    b"BZh": "a bzip2 file; unpack it",
    b"\xfd7zXZ": "an xz file; unpack it",
    b"PAR1": "a Parquet file; export the data as SQLite",
    b"** This file contains an SQLite 2": "a SQLite 2 file; export the data as SQLite 3",
}


def check_dump(
    path: Path,
    cfg: "DataConfig",
    markets: Mapping[str, MarketConfig],
    landing: Path | None = None,
    now: int | None = None,
    into: Path | None = None,
) -> DumpReport:
    """Judge a dump; never raises for what is wrong with the file, the findings say it.

    `landing`, where given, is the folder the file must lie in. `now` (ns) bounds the timestamps; the wall clock by default.
    The tables of an accepted dump lie in `into` afterwards, where it is given.
    """
    if finding := check_file(path, cfg.gate, landing):
        return DumpReport(False, (finding,))
    before = stamp(path)
    with at_rest(path) as quiet:
        report = check_content(quiet, cfg, markets, now, into)
    if stamp(path) != before:
        return DumpReport(False, (_file_finding("unstable", f"{path.name}: the file changed while it was read; wait until it is written"),))
    return replace(report, findings=(*file_warnings(path), *report.findings))


def check_file(path: Path, gate: GateConfig, landing: Path | None = None) -> Finding | None:
    """What is wrong with the file itself, before SQLite sees it."""
    name = path.name
    for part in (path, *(_beside(path, suffix) for suffix in (_JOURNAL, _LOG, _INDEX))):
        if finding := _check_kind(part, must_be=part is path):
            return finding
    if landing is not None and landing.resolve() not in path.resolve().parents:
        return _file_finding("outside", f"{name}: lies outside the landing folder; copy it there")
    size = path.stat().st_size
    total = size + (_beside(path, _LOG).stat().st_size if has_log(path) else 0)
    if total > gate.max_file_mb * 1_000_000:
        return _file_finding("too_large", f"{name}: {total} bytes; allowed {gate.max_file_mb} MB; raise gate.max_file_mb or split the dump")
    try:
        header = _start(path, 100)
        journal = _start(_beside(path, _JOURNAL), 8)
        log, index = _start(_beside(path, _LOG), 32), _start(_beside(path, _INDEX), 100)
    except OSError as error:
        return _file_finding("unreadable", f"{name}: cannot be read ({error.strerror}); give read permission to it and its log")
    if len(header) < 100 or not header.startswith(_MAGIC):
        seen = next((what for magic, what in _OTHERS.items() if header.startswith(magic)), None)
        found = seen or (
            f"{header[:16]!r} in a file of {size} bytes; export the data as SQLite" if size else "an empty file; export it again"
        )
        return _file_finding("not_a_database", f"{name}: expected a SQLite 3 file, found {found}")
    if journal == _JOURNAL_MAGIC:
        return _file_finding(
            "hot_journal", f"{name}: a hot journal lies beside it (a writer was cut off); open it once with its writer, or copy it again"
        )
    if has_log(path):
        return _check_log(name, header, log, _beside(path, _LOG).stat().st_size)
    return _check_index(name, header, index) or _check_length(name, header, size)


def file_warnings(path: Path) -> tuple[Finding, ...]:
    """What is worth saying about an accepted file, beside its content."""
    if not _is_in_wal_mode(path) or has_log(path):
        return ()
    message = (
        f"{path.name}: is in WAL mode and no log lies beside it; it is whole only if its writer had closed it; "
        "PRAGMA journal_mode = DELETE before it is copied"
    )
    return (Finding("warning", WAL_MODE, "", None, message),)


def stamp(path: Path) -> tuple[object, ...]:
    """Changes when the file, its journal or its log is written or replaced."""
    parts = (path, _beside(path, _JOURNAL), _beside(path, _LOG))
    states = [part.lstat() if part.exists() else None for part in parts]
    return tuple(state and (state.st_ino, state.st_size, state.st_mtime_ns) for state in states)


def has_log(path: Path) -> bool:
    """Whether a write-ahead log with content lies beside the file."""
    log = _beside(path, _LOG)
    return log.exists() and log.stat().st_size > 0


@contextmanager
def at_rest(path: Path) -> Iterator[Path]:
    """The file itself, or a private copy where it is in WAL mode without a log: SQLite would leave a log beside it."""
    if not _is_in_wal_mode(path) or has_log(path):
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


def check_content(
    path: Path, cfg: "DataConfig", markets: Mapping[str, MarketConfig], now: int | None = None, into: Path | None = None
) -> DumpReport:
    """Judge what is inside a SQLite file whose outside has been judged; the tables of an accepted one lie in `into` afterwards."""
    from plusultra_core.data.gate.validation import inspect  # the rules stand above the gate and use its connection

    try:
        with connect(path, cfg.gate) as db:
            if hostile := check_schema(db, cfg.gate.max_assets):
                return DumpReport(False, tuple(hostile))
            if damage := _find_damage(db):
                message = f"dump: the database is damaged ({'; '.join(damage)}); copy it again"
                return DumpReport(False, (Finding("error", "corrupt", "", None, message),))
            return inspect(db, cfg, markets, now_ns() if now is None else now, into)
    except (sqlite3.Error, MemoryError) as error:
        return DumpReport(False, (sqlite_finding("", error),))


def _find_damage(db: sqlite3.Connection) -> list[str]:
    """What SQLite's quick check says; table by table where there are virtual ones, whose modules it would start."""
    kinds = db.execute("SELECT name, rootpage FROM sqlite_schema WHERE type = 'table'").fetchall()
    tables = [name for name, page in kinds if page]
    asked = [""] if len(tables) == len(kinds) else [f"({quote(name)})" for name in tables]
    with long_cells(db):
        found = [str(row[0]) for part in asked for row in db.execute(f"PRAGMA quick_check{part}")]  # a hundred lines each, at most
    return [line for line in found if line != "ok" and not line.startswith(_NO_DAMAGE)][:3]


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _check_kind(path: Path, must_be: bool) -> Finding | None:
    try:
        mode = path.lstat().st_mode
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and not must_be:
            return None
        reason = getattr(error, "strerror", None) or error
        code = "unreadable" if isinstance(error, PermissionError) else "missing_file"
        return _file_finding(code, f"{path.name}: cannot be read ({reason}); name a file that exists")
    if stat.S_ISLNK(mode):
        return _file_finding("symlink", f"{path.name}: expected a regular file, found a symbolic link; copy the dump itself")
    if not stat.S_ISREG(mode):
        return _file_finding("not_regular", f"{path.name}: expected a regular file, found something else; copy the dump itself")
    return None


def _start(path: Path, count: int) -> bytes:
    """The first bytes of a file; a pipe put in its place since does not hold us up, and a link is not followed."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.read(handle, count)
    finally:
        os.close(handle)


def _is_in_wal_mode(path: Path) -> bool:
    return _start(path, 20)[18:20] == _WAL_MODE


def _page_size(header: bytes) -> int:
    size = int.from_bytes(header[16:18], "big")
    return 65536 if size == 1 else size


def _check_length(name: str, header: bytes, size: int) -> Finding | None:
    page_size = _page_size(header)
    if page_size < 512 or page_size & (page_size - 1):
        return _file_finding("corrupt", f"{name}: expected pages of 512 to 65536 bytes, found {page_size}; copy it again")
    pages = int.from_bytes(header[28:32], "big")
    in_header = header[24:28] == header[92:96] and pages > 0
    if (in_header and pages * page_size != size) or size % page_size:
        expected = f"{pages} pages of {page_size} bytes = {pages * page_size} bytes" if in_header else f"whole pages of {page_size} bytes"
        return _file_finding("truncated", f"{name}: expected {expected}, found {size}; copy it again")
    return None


def _check_log(name: str, header: bytes, log: bytes, size: int) -> Finding | None:
    """A log that is not this file's, or that ends inside a frame: SQLite would pass over its rows in silence."""
    page_size = _page_size(header)
    magic, _, log_page_size = struct.unpack(">3I", log.ljust(32, b"\0")[:12])
    if size < 32 or magic not in _LOG_MAGICS or log_page_size != page_size:
        return _file_finding("lost_log", f"{name}: the log beside it is not its own; copy the file and its log together")
    if (size - 32) % (24 + page_size):
        return _file_finding("lost_log", f"{name}: the log beside it ends inside a page; copy the file and its log together")
    return None


def _check_index(name: str, header: bytes, index: bytes) -> Finding | None:
    """The index of a log that is gone: it says how many pages of the log were never written into the file."""
    if header[18:20] != _WAL_MODE or len(index) < 100:
        return None
    frames, written = struct.unpack_from("=I", index, 16)[0], struct.unpack_from("=I", index, 96)[0]
    if frames <= written:
        return None
    lost = f"its log is gone, and {frames - written} pages with it"
    return _file_finding("lost_log", f"{name}: {lost}; copy the log too, or PRAGMA wal_checkpoint(TRUNCATE) before copying")


def _file_finding(code: str, message: str) -> Finding:
    return Finding("error", code, "", None, message)
