"""A connection to somebody else's file: read-only, within limits, asked only harmless questions."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from plusultra_core.data.gate.findings import Finding, Row, describe
from plusultra_core.errors import ConfigError

CACHE_KB = 16_000
"""Pages of a dump that SQLite keeps in memory, whatever the file asks for."""
MAX_CELL_BYTES = 64_000_000
"""Longest cell that is passed over; `gate.max_cell_bytes` bounds those that are read."""

_PRAGMAS = frozenset({"quick_check", "table_xinfo"})
_STEP = 100  # instructions of SQLite between two looks at the clock while it reads the schema
_SCHEMA_STEPS = 100_000  # seven for each table, view, index or trigger
_SCHEMA_S = 2.5
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
    max_assets: int
    """Most rows of `assets`."""
    query_budget_s: float
    """Time that one pass over the dump may take."""
    busy_timeout_s: float
    """How long to wait for a writer's lock."""

    def __post_init__(self) -> None:
        for name in ("max_file_mb", "max_cell_bytes", "max_assets", "query_budget_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: expected > 0, found {getattr(self, name)}")
        if self.busy_timeout_s < 0:
            raise ConfigError(f"busy_timeout_s: expected >= 0, found {self.busy_timeout_s}")


_READ_ONLY = (
    "PRAGMA trusted_schema = OFF",
    "PRAGMA query_only = ON",
    "PRAGMA cell_size_check = ON",
    "PRAGMA ignore_check_constraints = ON",
    "PRAGMA temp_store = FILE",
    "PRAGMA mmap_size = 0",
    f"PRAGMA cache_size = -{CACHE_KB}",  # the file names a size of its own in its header
)
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1_000_000,  # of a statement in the schema; cells have a limit of their own
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1_000_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}


@contextmanager
def connect(path: Path, gate: GateConfig) -> Iterator[sqlite3.Connection]:
    """A connection that can only read, within the limits of `gate`; never `immutable`, so a log is honoured.

    Everything is read in one transaction: a writer at work meanwhile changes nothing of what is seen.
    Raises  sqlite3.Error as SQLite does; the query budget ends a query with `interrupted`.
    """
    uri = f"{path.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=gate.busy_timeout_s, isolation_level=None)) as db:
        for kind, limit in _LIMITS.items():
            db.setlimit(kind, limit)
        _load_schema(db)
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, gate.max_cell_bytes)
        db.set_authorizer(_authorize)
        deadline = time.monotonic() + gate.query_budget_s
        db.set_progress_handler(lambda: int(time.monotonic() > deadline), 20_000)
        db.execute("BEGIN")
        yield db


def _load_schema(db: sqlite3.Connection) -> None:
    """Have SQLite read the schema, within limits of its own: it does so before any question can be asked.

    Raises  sqlite3.OperationalError when there is too much of it.
    """
    calls: list[float] = []

    def is_too_much() -> int:
        calls.append(time.monotonic())
        return int(len(calls) * _STEP > _SCHEMA_STEPS or calls[-1] - calls[0] > _SCHEMA_S)

    db.set_progress_handler(is_too_much, _STEP)
    try:
        for statement in _READ_ONLY:
            db.execute(statement)
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            raise sqlite3.OperationalError("the schema is too large") from error
        raise


def _authorize(action: int, first: str | None, second: str | None, database: str | None, within: str | None) -> int:
    if within is not None:  # asked by a view or a trigger of the file
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_PRAGMA:
        return sqlite3.SQLITE_OK if first in _PRAGMAS else sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and second in ("load_extension", "fts3_tokenizer", "writefile", "readfile", "edit"):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


_HOSTILE = ("hostile_schema", "its schema asks for what a dump may not do", "export plain tables")
_HUGE_SCHEMA = ("huge_schema", "its schema is larger than a dump may have", "export the tables of the contract only")
_SQLITE_REASONS = (
    ("schema is too large", *_HUGE_SCHEMA),
    ("too many columns", *_HUGE_SCHEMA),
    ("duplicate column", "duplicate_column", "two columns differ by case only", "keep one"),
    ("locked", "locked", "another process holds a lock on it", "close the writer"),
    ("interrupted", "query_budget", "reading it takes longer than gate.query_budget_s", "shrink it, or raise the budget"),
    (") - ", "hostile_schema", "SQLite does not understand its schema", "export plain tables"),
    ("too big", "huge_cell", "a cell is longer than gate.max_cell_bytes", "shorten it, or raise the limit"),
    ("utf-8", "invalid_utf8", "some text is not UTF-8", "write the text as UTF-8"),
    ("not a database", "not_a_database", "SQLite does not know the file", "export the data as SQLite"),
    ("malformed", "corrupt", "the database is damaged", "copy it again, or export it anew"),
    ("unable to open", "unreadable", "SQLite cannot open it", "give read permission to it and its log"),
    ("prohibited", *_HOSTILE),
    ("not authorized", *_HOSTILE),
    ("authorization denied", *_HOSTILE),
    ("unsafe use", *_HOSTILE),
    ("no such collation", *_HOSTILE),
    ("no such function", *_HOSTILE),
    ("no such module", *_HOSTILE),
)


def sqlite_finding(table: str, error: Exception, db: sqlite3.Connection | None = None, sample_rows: int = 3) -> Finding:
    """An error of SQLite in the words of the gate; with `db`, text that is not UTF-8 is named by its rows."""
    text = str(error).lower()
    for part, code, what, remedy in _SQLITE_REASONS:
        if part in text:
            found = _find_invalid_text(db, table, sample_rows) if db is not None and table and code == "invalid_utf8" else None
            return found or Finding("error", code, table, None, f"{table or 'dump'}: {what} ({error}); {remedy}")
    reason = error or type(error).__name__
    return Finding("error", "corrupt", table, None, f"{table or 'dump'}: SQLite cannot read it ({reason}); export it anew")


def _find_invalid_text(db: sqlite3.Connection, table: str, sample_rows: int) -> Finding | None:
    """The rows whose text is not UTF-8: by rowid, or by their place in a table that has none."""
    columns = [str(row[1]) for row in db.execute(f"PRAGMA table_xinfo({quote(table)})")]
    shown = ", ".join(f"CASE WHEN typeof({quote(name)}) = 'text' THEN {quote(name)} END" for name in columns)
    place = next((name for name in ("rowid", "_rowid_", "oid") if name not in [column.lower() for column in columns]), "NULL")
    db.text_factory = bytes
    try:
        try:
            cursor = db.execute(f"SELECT {place}, {shown} FROM {quote(table)} NOT INDEXED")
        except sqlite3.OperationalError:  # WITHOUT ROWID
            cursor = db.execute(f"SELECT NULL, {shown} FROM {quote(table)} NOT INDEXED")
        return _describe_invalid_text(cursor, table, columns, sample_rows)
    except sqlite3.Error:
        return None
    finally:
        db.text_factory = str


def _describe_invalid_text(cursor: sqlite3.Cursor, table: str, columns: Sequence[str], sample_rows: int) -> Finding | None:
    count, seen = 0, 0
    rows: list[Row] = []
    while chunk := cursor.fetchmany(1_024):
        for at, (place, *cells) in enumerate(chunk):  # a loop over rows, of a file that is refused
            broken = {name: text for name, cell in zip(columns, cells, strict=True) if (text := _as_broken(cell)) is not None}
            count += bool(broken)
            if broken and len(rows) < sample_rows:
                rows.append({**({"row": seen + at + 1} if place is None else {"rowid": place}), **broken})
        seen += len(chunk)
    if not count:
        return None
    column = next(name for name in rows[0] if name in columns)
    message = describe(f"{table}.{column}", count, rows, "text in UTF-8", "write it anew")
    return Finding("error", "invalid_utf8", table, column, message, tuple(rows))


def _as_broken(cell: bytes | None) -> str | None:
    """Text that is not UTF-8, fit to be shown; None for any other."""
    if cell is None:
        return None
    try:
        cell.decode()
    except UnicodeDecodeError:
        return cell.decode("utf-8", "backslashreplace")[:200]
    return None


@contextmanager
def long_cells(db: sqlite3.Connection) -> Iterator[None]:
    """Cells of up to MAX_CELL_BYTES may be touched, by questions that keep none of them."""
    usual = db.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(usual, MAX_CELL_BYTES))
    try:
        yield
    finally:
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, usual)


def quote(name: str) -> str:
    """A name as an SQL identifier, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'
