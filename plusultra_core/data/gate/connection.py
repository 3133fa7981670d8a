"""A connection to somebody else's file: read-only, within limits, asked only harmless questions."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from plusultra_core.data.gate.findings import Finding
from plusultra_core.errors import ConfigError

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
