"""What analysts said about trades: an append-only SQLite table, read back as a frame."""

import json
import sqlite3
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from plusultra_core.artifacts import canonical_json, sha256_bytes
from plusultra_core.errors import ArtifactError, ConfigError, ContractError
from plusultra_core.feedback.outcomes import OutcomesConfig
from plusultra_core.feedback.retrain import RetrainConfig

Decision = Literal["approve", "reject", "flag", "hold", "escalate"]

_SCHEMA_VERSION = 1
_APPLICATION_ID = 0x50555341  # PUSA
_MAX_NAME_CHARS = 128

_SCHEMA = """
CREATE TABLE trade_annotations (
    annotation_id           INTEGER PRIMARY KEY AUTOINCREMENT,
    client_key              TEXT NOT NULL UNIQUE CHECK (length(client_key) BETWEEN 1 AND 128),
    content_sha256          TEXT NOT NULL CHECK (length(content_sha256) = 64),
    trade_id                TEXT NOT NULL CHECK (length(trade_id) BETWEEN 1 AND 256),
    symbol                  TEXT CHECK (symbol IS NULL OR length(symbol) BETWEEN 1 AND 128),
    trade_ns                INTEGER NOT NULL CHECK (trade_ns > 0),
    decision                TEXT NOT NULL CHECK (decision IN ('approve', 'reject', 'flag', 'hold', 'escalate')),
    rationale               TEXT NOT NULL CHECK (length(trim(rationale)) > 0),
    confidence              REAL CHECK (confidence IS NULL OR confidence BETWEEN 0.0 AND 1.0),
    tags                    TEXT NOT NULL CHECK (substr(tags, 1, 1) = '['),
    author                  TEXT NOT NULL CHECK (length(author) BETWEEN 1 AND 128),
    created_ns              INTEGER NOT NULL CHECK (created_ns >= trade_ns),
    metadata                TEXT CHECK (metadata IS NULL OR substr(metadata, 1, 1) = '{'),
    context_window_start_ns INTEGER CHECK (context_window_start_ns IS NULL OR context_window_start_ns > 0),
    context_window_end_ns   INTEGER,
    CHECK ((context_window_start_ns IS NULL) = (context_window_end_ns IS NULL)),
    CHECK (context_window_end_ns IS NULL OR context_window_end_ns >= context_window_start_ns)
) STRICT;
CREATE TRIGGER trade_annotations_no_update BEFORE UPDATE ON trade_annotations
BEGIN SELECT RAISE(ABORT, 'trade_annotations is append-only: UPDATE refused'); END;
CREATE TRIGGER trade_annotations_no_delete BEFORE DELETE ON trade_annotations
BEGIN SELECT RAISE(ABORT, 'trade_annotations is append-only: DELETE refused'); END;
CREATE TRIGGER trade_annotations_no_replace BEFORE INSERT ON trade_annotations
WHEN EXISTS (SELECT 1 FROM trade_annotations WHERE client_key = NEW.client_key OR annotation_id = NEW.annotation_id)
BEGIN SELECT RAISE(ABORT, 'trade_annotations is append-only: REPLACE refused'); END;
"""

_INSERT = """
INSERT INTO trade_annotations (client_key, content_sha256, trade_id, symbol, trade_ns, decision, rationale, confidence, tags, author,
                               created_ns, metadata, context_window_start_ns, context_window_end_ns)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_READ = """
SELECT annotation_id, trade_id, symbol, trade_ns, decision, rationale, confidence, tags, author, created_ns, metadata,
       context_window_start_ns, context_window_end_ns
FROM trade_annotations WHERE annotation_id > ? AND created_ns <= ? ORDER BY annotation_id
"""

_FRAME_SCHEMA = {
    "annotation_id": pl.Int64,
    "trade_id": pl.String,
    "symbol": pl.String,
    "trade_ns": pl.Int64,
    "decision": pl.String,
    "rationale": pl.String,
    "confidence": pl.Float64,
    "tags": pl.String,
    "author": pl.String,
    "created_ns": pl.Int64,
    "metadata": pl.String,
    "context_window_start_ns": pl.Int64,
    "context_window_end_ns": pl.Int64,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedbackConfig:
    """The analysts' store, how trades are judged afterwards, and when that is worth a retraining."""

    busy_timeout_ms: int
    """How long a writer waits for another one."""
    max_rationale_chars: int
    """Longest rationale that is taken."""
    max_metadata_bytes: int
    """Largest metadata, as canonical JSON."""
    outcomes: OutcomesConfig
    retrain: RetrainConfig

    def __post_init__(self) -> None:
        for name in ("busy_timeout_ms", "max_rationale_chars", "max_metadata_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected >= 1, found {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """One judgement of one trade; `client_key` makes sending it twice harmless."""

    client_key: str
    trade_id: str
    """Of the dump's trades, or `<strategy>:<order_id>` for an order of a trace."""
    symbol: str | None
    trade_ns: int
    decision: Decision
    rationale: str
    confidence: float | None
    tags: tuple[str, ...]
    author: str
    created_ns: int
    metadata: Mapping[str, Any] | None
    context_window_start_ns: int | None
    context_window_end_ns: int | None


def open_store(path: Path, cfg: FeedbackConfig) -> sqlite3.Connection:
    """The store at `path`, made if it is not there. The caller closes it.

    Raises  ArtifactError when the file is something else or of another schema version.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=cfg.busy_timeout_ms / 1000, isolation_level=None)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA recursive_triggers = ON")
        _create_once(connection, path)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise ArtifactError(f"{path}: no annotation store ({error}); name another file") from error
    except ArtifactError:
        connection.close()
        raise
    return connection


def append(connection: sqlite3.Connection, annotation: Annotation, cfg: FeedbackConfig) -> int:
    """Add one annotation and return its id; the same one again returns the id it has, whatever its `created_ns`.

    Raises  ContractError when a value is refused, or the client key was used for other content.
    """
    return append_all(connection, [annotation], cfg)[0]


def append_all(connection: sqlite3.Connection, annotations: Sequence[Annotation], cfg: FeedbackConfig) -> list[int]:
    """Add annotations in one transaction, all or none, and return their ids.

    Raises  ContractError as `append`, for the first that is refused.
    """
    for annotation in annotations:
        _check(annotation, cfg)
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = [_insert(connection, annotation) for annotation in annotations]
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return found


def _insert(connection: sqlite3.Connection, annotation: Annotation) -> int:
    metadata = None if annotation.metadata is None else canonical_json(annotation.metadata).decode().strip()
    content = (
        annotation.trade_id,
        annotation.symbol,
        annotation.trade_ns,
        annotation.decision,
        annotation.rationale,
        annotation.confidence,
        canonical_json(list(annotation.tags)).decode().strip(),
        annotation.author,
        metadata,
        annotation.context_window_start_ns,
        annotation.context_window_end_ns,
    )
    sha256 = sha256_bytes(canonical_json(content))
    query = "SELECT annotation_id, content_sha256 FROM trade_annotations WHERE client_key = ?"
    try:
        known = connection.execute(query, (annotation.client_key,)).fetchone()
        if known is None:
            row = (annotation.client_key, sha256, *content[:8], annotation.created_ns, *content[8:])
            known = (connection.execute(_INSERT, row).lastrowid, sha256)
    except sqlite3.Error as error:
        raise ContractError(f"trade_annotations: {error}; mend the annotation of trade {annotation.trade_id!r}") from error
    if known[1] != sha256:
        raise ContractError(f"trade_annotations: client_key {annotation.client_key!r} stands for other content; use a new key")
    return int(known[0])


def read(connection: sqlite3.Connection, as_of_ns: int, after_id: int = 0) -> pl.DataFrame:
    """Annotations known at `as_of_ns` with an id above `after_id`, in the order they were written."""
    rows = connection.execute(_READ, (after_id, as_of_ns)).fetchall()
    return pl.DataFrame(rows, schema=_FRAME_SCHEMA, orient="row")


def _create_once(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if (application, version, tables) == (0, 0, 0):
            for statement in _statements(_SCHEMA):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        elif (application, version) != (_APPLICATION_ID, _SCHEMA_VERSION):
            raise ArtifactError(
                f"{path}: expected an annotation store of version {_SCHEMA_VERSION}, found another database; name another file"
            )
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _statements(script: str) -> list[str]:
    statements, current = [], ""
    for line in script.strip().splitlines():
        current += line + "\n"
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    return statements


def _check(annotation: Annotation, cfg: FeedbackConfig) -> None:
    for name in ("client_key", "trade_id", "symbol", "author"):
        text = getattr(annotation, name)
        if text is None and name == "symbol":
            continue
        longest = 2 * _MAX_NAME_CHARS if name == "trade_id" else _MAX_NAME_CHARS
        if text != text.strip() or not text or not text.isprintable() or len(text) > longest:
            told = f"printable text of 1-{longest} characters, no space at its ends"
            raise ContractError(f"trade_annotations.{name}: expected {told}, found {text[:40]!r}")
    for name, text in (("rationale", annotation.rationale), ("tags", "".join(annotation.tags))):
        if any(unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\r\t" for char in text):
            raise ContractError(f"trade_annotations.{name}: expected text without control characters, found {text[:40]!r}")
    if len(annotation.rationale) > cfg.max_rationale_chars:
        raise ContractError(
            f"trade_annotations.rationale: expected at most {cfg.max_rationale_chars} characters, found {len(annotation.rationale)}"
        )
    try:
        metadata = json.dumps(annotation.metadata, allow_nan=False)
        canonical_json((annotation.confidence, list(annotation.tags)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ContractError(f"trade_annotations: confidence, tags or metadata is no plain finite JSON ({error})") from error
    if len(metadata.encode()) > cfg.max_metadata_bytes:
        raise ContractError(f"trade_annotations.metadata: expected at most {cfg.max_metadata_bytes} bytes, found {len(metadata.encode())}")
