"""The gate: a dump is somebody else's file. It is opened read-only, asked only harmless questions, and judged."""

import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl

from plusultra_core.clock import now_ns
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.market import MarketConfig

if TYPE_CHECKING:
    from plusultra_core.data.tables import DataConfig

Level = Literal["error", "warning"]
Row = dict[str, object]

_MAGIC = b"SQLite format 3\0"
_JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
_PRAGMAS = frozenset({"quick_check", "table_list", "table_xinfo"})
_ALLOWED = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_RECURSIVE}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GateConfig:
    """Limits within which a dump is read."""

    max_file_mb: int
    """Largest file that is opened."""
    max_cell_bytes: int
    """Longest text or blob in a cell."""
    query_budget_s: float
    """Time that one pass over the dump may take."""
    busy_timeout_s: float
    """How long to wait for a writer's lock."""

    def __post_init__(self) -> None:
        for name in ("max_file_mb", "max_cell_bytes", "query_budget_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: expected > 0, found {getattr(self, name)}")
        if self.busy_timeout_s < 0:
            raise ConfigError(f"busy_timeout_s: expected >= 0, found {self.busy_timeout_s}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationConfig:
    """How strictly a dump is judged."""

    mode: Literal["strict", "quarantine"]
    """strict refuses the dump; quarantine sets the offending symbols aside and goes on."""
    sample_rows: int
    """Offending rows shown with a finding."""
    future_tolerance_s: int
    """How far past now a timestamp may lie."""

    def __post_init__(self) -> None:
        if self.sample_rows < 1:
            raise ConfigError(f"sample_rows: expected >= 1, found {self.sample_rows}")
        if self.future_tolerance_s < 0:
            raise ConfigError(f"future_tolerance_s: expected >= 0, found {self.future_tolerance_s}")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about a dump: an error refuses it, a warning goes into checks and report."""

    level: Level
    code: str
    table: str
    column: str | None
    message: str
    rows: tuple[Row, ...] = ()
    symbols: tuple[str, ...] | None = None
    """Every symbol concerned, where the whole finding can be laid at the door of symbols."""

    def to_dict(self) -> dict[str, object]:
        """JSON types."""
        fields = {"level": self.level, "code": self.code, "table": self.table, "column": self.column, "message": self.message}
        return {**fields, "rows": [dict(row) for row in self.rows], "symbols": list(self.symbols or ())}


@dataclass(frozen=True, slots=True)
class DumpReport:
    """The verdict on a dump; the same for the command line, the snapshot and the asset checks."""

    accepted: bool
    findings: tuple[Finding, ...]
    counts: dict[str, int] = field(default_factory=dict)
    """Rows of each table."""
    ranges: dict[str, dict[str, str]] = field(default_factory=dict)
    """First and last timestamp of each table that has one."""
    classes: dict[str, int] = field(default_factory=dict)
    """Symbols of each asset class."""
    quarantined: tuple[str, ...] = ()
    """Symbols set aside; none in strict mode."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What refuses the dump."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What is accepted and said."""
        return tuple(finding for finding in self.findings if finding.level == "warning")

    def to_dict(self) -> dict[str, object]:
        """JSON types."""
        return {
            "accepted": self.accepted,
            "findings": [finding.to_dict() for finding in self.findings],
            "counts": dict(self.counts),
            "ranges": {table: dict(span) for table, span in self.ranges.items()},
            "classes": dict(self.classes),
            "quarantined": list(self.quarantined),
        }


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


@contextmanager
def connect(path: Path, gate: GateConfig) -> Iterator[sqlite3.Connection]:
    """A connection that can only read, within the limits of `gate`; never `immutable`, so a log is honoured.

    Raises  sqlite3.Error as SQLite does; the query budget ends a query with `interrupted`.
    """
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=gate.busy_timeout_s)) as db:
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA cell_size_check = ON")
        db.execute("PRAGMA mmap_size = 0")
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, gate.max_cell_bytes)
        db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        db.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 200)
        db.set_authorizer(_authorize)
        deadline = time.monotonic() + gate.query_budget_s
        db.set_progress_handler(lambda: int(time.monotonic() > deadline), 20_000)
        yield db


def _authorize(action: int, first: str | None, second: str | None, database: str | None, trigger: str | None) -> int:
    if action == sqlite3.SQLITE_PRAGMA:
        return sqlite3.SQLITE_OK if first in _PRAGMAS else sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and second in ("load_extension", "fts3_tokenizer", "writefile", "readfile", "edit"):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


_SQLITE_REASONS = (
    ("locked", "locked", "another process holds a lock on it", "close the writer"),
    ("interrupted", "query_budget", "reading it takes longer than gate.query_budget_s", "shrink it, or raise the budget"),
    ("too big", "huge_cell", "a cell is longer than gate.max_cell_bytes", "shorten it, or raise the limit"),
    ("utf-8", "invalid_utf8", "some text is not UTF-8", "write the text as UTF-8"),
    ("not a database", "not_a_database", "SQLite does not know the file", "export the data as SQLite"),
    ("malformed", "corrupt", "the database is damaged", "copy it again, or export it anew"),
    ("unable to open", "unreadable", "SQLite cannot open it", "give read permission to it and its log"),
    ("prohibited", "hostile_schema", "its schema asks for what a dump may not do", "export plain tables"),
    ("not authorized", "hostile_schema", "its schema asks for what a dump may not do", "export plain tables"),
    ("authorization denied", "hostile_schema", "its schema asks for what a dump may not do", "export plain tables"),
    ("unsafe use", "hostile_schema", "its schema asks for what a dump may not do", "export plain tables"),
)


def sqlite_finding(table: str, error: Exception) -> Finding:
    """An error of SQLite in the words of the gate."""
    text = str(error).lower()
    for part, code, what, remedy in _SQLITE_REASONS:
        if part in text:
            return Finding("error", code, table, None, f"{table or 'dump'}: {what} ({error}); {remedy}")
    return Finding("error", "corrupt", table, None, f"{table or 'dump'}: SQLite cannot read it ({error}); export it anew")


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


def refuse(report: DumpReport, name: str) -> None:
    """Raise the first findings of a refused dump.

    Raises  ContractError when the dump is not accepted.
    """
    if not report.accepted:
        errors: Sequence[Finding] = report.errors
        shown = " | ".join(finding.message for finding in errors[:3])
        more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
        raise ContractError(f"{name}: refused: {shown}{more}")


def quote(name: str) -> str:
    """A name as an SQL identifier, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'


def number(column: str) -> str:
    """SQL for a column's value as REAL; text that is a number is read as one."""
    return f"CAST({quote(column)} AS REAL)"


def read_columns(
    db: sqlite3.Connection, sql: str, names: Sequence[str], params: Sequence[object] = (), chunk_rows: int = 1_024
) -> pl.DataFrame:
    """A query as a frame, a few thousand rows at a time; each column must hold one type.

    Raises  TypeError when a column mixes types.
    """
    cursor = db.execute(sql, params)
    chunks = []
    types: dict[str, pl.DataType] = {}
    while rows := cursor.fetchmany(chunk_rows):
        columns = [
            pl.Series(name, values, dtype=types.get(name), strict=True) for name, values in zip(names, zip(*rows, strict=True), strict=True)
        ]
        types |= {column.name: column.dtype for column in columns if column.dtype != pl.Null}
        chunks.append(pl.DataFrame(columns))
    if not chunks:
        return pl.DataFrame(schema=dict.fromkeys(names, pl.Null))
    return pl.concat(chunks, how="vertical_relaxed", rechunk=True)


def plain(value: object) -> object:
    """A cell as JSON: bytes and infinities as text, long text cut."""
    if isinstance(value, bytes):
        return f"blob of {len(value)} bytes"
    if isinstance(value, float) and not abs(value) < float("inf"):
        return repr(value)
    return value[:200] if isinstance(value, str) else value


def describe(where: str, count: int, rows: Sequence[Row], expected: str, remedy: str) -> str:
    """The house form: where, what, expected, first rows, what to do."""
    shown = "; ".join(", ".join(f"{name}={value!r}" for name, value in row.items()) for row in rows[:3])
    return f"{where}: {count} {'row' if count == 1 else 'rows'}, first ({shown}); expected {expected}; {remedy}"
