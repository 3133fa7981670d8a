"""Every answer, written down before it is given: an append-only SQLite file."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from plusultra_core.errors import ArtifactError

_VERSION = 1
_APPLICATION_ID = 0x50555353  # PUSS

_SCHEMA = (
    """CREATE TABLE requests (
        id           INTEGER PRIMARY KEY AUTOINCREMENT,
        request_id   TEXT NOT NULL UNIQUE CHECK (length(request_id) = 32),
        received_ns  INTEGER NOT NULL CHECK (received_ns > 0),
        client       TEXT NOT NULL,
        status       INTEGER NOT NULL CHECK (status BETWEEN 100 AND 599),
        duration_us  INTEGER NOT NULL CHECK (duration_us >= 0),
        num_symbols  INTEGER NOT NULL CHECK (num_symbols >= 0)
    ) STRICT""",
    "CREATE INDEX requests_received ON requests (received_ns)",
    """CREATE TABLE predictions (
        id             INTEGER PRIMARY KEY AUTOINCREMENT,
        prediction_id  TEXT NOT NULL UNIQUE CHECK (length(prediction_id) = 32),
        request_id     TEXT NOT NULL CHECK (length(request_id) = 32),
        created_ns     INTEGER NOT NULL CHECK (created_ns > 0),
        symbol         TEXT NOT NULL,
        ts_ns          INTEGER NOT NULL,
        reason         TEXT NOT NULL,
        served_sha256  TEXT NOT NULL CHECK (length(served_sha256) = 64),
        bundle_sha256  TEXT NOT NULL CHECK (length(bundle_sha256) = 64),
        panel_sha256   TEXT NOT NULL CHECK (length(panel_sha256) = 64),
        answer         TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX predictions_created ON predictions (created_ns)",
    *(
        f"""CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
        BEGIN SELECT RAISE(ABORT, '{table} is append-only: {verb} refused'); END"""
        for table in ("requests", "predictions")
        for verb in ("UPDATE", "DELETE")
    ),
    """CREATE TRIGGER requests_no_replace BEFORE INSERT ON requests
       WHEN EXISTS (SELECT 1 FROM requests WHERE request_id = NEW.request_id OR id = NEW.id)
       BEGIN SELECT RAISE(ABORT, 'requests is append-only: REPLACE refused'); END""",
    """CREATE TRIGGER predictions_no_replace BEFORE INSERT ON predictions
       WHEN EXISTS (SELECT 1 FROM predictions WHERE prediction_id = NEW.prediction_id OR id = NEW.id)
       BEGIN SELECT RAISE(ABORT, 'predictions is append-only: REPLACE refused'); END""",
)


class RequestRow(NamedTuple):
    """One request of the forecast route."""

    request_id: str
    received_ns: int
    client: str
    """Name of the key, never the key; empty where there was none."""
    status: int
    duration_us: int
    num_symbols: int


class PredictionRow(NamedTuple):
    """One answer about one symbol, with what it came from."""

    prediction_id: str
    request_id: str
    created_ns: int
    symbol: str
    ts_ns: int
    reason: str
    served_sha256: str
    bundle_sha256: str
    panel_sha256: str
    answer: str


def open_journal(path: Path) -> sqlite3.Connection:
    """The journal at `path`, made if it is not there; used from one thread at a time. The caller closes it.

    Raises  ArtifactError when the file is something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("trusted_schema = OFF", "journal_mode = WAL", "synchronous = NORMAL"):
            connection.execute(f"PRAGMA {pragma}")
        _create_once(connection, path)
    except (sqlite3.DatabaseError, ArtifactError) as error:
        connection.close()
        raise ArtifactError(f"{path}: no service journal ({error}); name another file") from error
    return connection


def write_request(journal: sqlite3.Connection, row: RequestRow) -> None:
    """Write one request down."""
    journal.execute(f"INSERT INTO requests ({', '.join(row._fields)}) VALUES (?, ?, ?, ?, ?, ?)", row)


def write_predictions(journal: sqlite3.Connection, rows: Sequence[PredictionRow]) -> None:
    """Write the predictions of one request down, all or none."""
    journal.execute("BEGIN IMMEDIATE")
    try:
        fields = ", ".join(PredictionRow._fields)
        journal.executemany(f"INSERT INTO predictions ({fields}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    except BaseException:
        journal.execute("ROLLBACK")
        raise
    journal.execute("COMMIT")


def read_prediction(journal: sqlite3.Connection, prediction_id: str) -> PredictionRow | None:
    """One prediction by its id: the first step of `plusultra explain`."""
    fields = ", ".join(PredictionRow._fields)
    row = journal.execute(f"SELECT {fields} FROM predictions WHERE prediction_id = ?", (prediction_id,)).fetchone()
    return None if row is None else PredictionRow(*row)


def _create_once(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        marks = tuple(connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if marks == (0, 0) and tables == 0:
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        elif marks != (_APPLICATION_ID, _VERSION):
            raise ArtifactError(f"expected a journal of version {_VERSION}, found another database")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
