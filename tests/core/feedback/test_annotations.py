"""The analysts' store: nothing is changed, nothing is lost, nothing is taken that the schema does not allow."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from plusultra_core.config import load
from plusultra_core.errors import ArtifactError, ContractError
from plusultra_core.feedback.annotations import Annotation, FeedbackConfig, append, open_store, read

FAR = 2**62
ONE = Annotation(
    client_key="desk-1",
    trade_id="policy:7",
    symbol="BTC/USDT:USDT",
    trade_ns=1_000,
    decision="reject",
    rationale="earnings tomorrow",
    confidence=0.8,
    tags=("event", "risk"),
    author="ada",
    created_ns=2_000,
    metadata={"ticket": 12},
    context_window_start_ns=None,
    context_window_end_ns=None,
)


@pytest.fixture(scope="module")
def cfg(root: Path) -> FeedbackConfig:
    return load(FeedbackConfig, root / "configs/smoke/feedback.yaml")


@pytest.fixture
def store(tmp_path: Path, cfg: FeedbackConfig) -> Iterator[sqlite3.Connection]:
    connection = open_store(tmp_path / "annotations.sqlite", cfg)
    yield connection
    connection.close()


def test_what_is_written_is_read_back(store: sqlite3.Connection, cfg: FeedbackConfig) -> None:
    append(store, ONE, cfg)
    row = read(store, FAR).row(0, named=True)
    assert (row["trade_id"], row["symbol"], row["decision"], row["confidence"]) == ("policy:7", "BTC/USDT:USDT", "reject", 0.8)
    assert (row["tags"], row["metadata"]) == ('["event","risk"]', '{"ticket":12}')


def test_sending_twice_writes_once_even_when_the_clock_has_moved(store: sqlite3.Connection, cfg: FeedbackConfig) -> None:
    first = append(store, ONE, cfg)
    assert append(store, replace(ONE, created_ns=9_000), cfg) == first
    assert len(read(store, FAR)) == 1


def test_a_key_used_for_other_content_is_refused(store: sqlite3.Connection, cfg: FeedbackConfig) -> None:
    append(store, ONE, cfg)
    with pytest.raises(ContractError, match="client_key 'desk-1' stands for other content"):
        append(store, replace(ONE, decision="approve"), cfg)
    assert read(store, FAR)["decision"].to_list() == ["reject"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trade_annotations SET decision = 'approve'",
        "DELETE FROM trade_annotations",
        "INSERT OR REPLACE INTO trade_annotations SELECT * FROM trade_annotations",
        "REPLACE INTO trade_annotations SELECT 9, client_key, content_sha256, trade_id, symbol, trade_ns, 'approve', rationale, confidence,"
        " tags, author, created_ns, metadata, context_window_start_ns, context_window_end_ns FROM trade_annotations",
    ],
)
def test_history_cannot_be_rewritten(statement: str, store: sqlite3.Connection, cfg: FeedbackConfig, tmp_path: Path) -> None:
    append(store, ONE, cfg)
    other = sqlite3.connect(tmp_path / "annotations.sqlite", isolation_level=None)  # with SQLite's defaults, not ours
    for connection in (store, other):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    other.close()
    assert read(store, FAR)["decision"].to_list() == ["reject"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decision": "maybe"}, "decision IN"),
        ({"confidence": 1.5}, "confidence BETWEEN"),
        ({"confidence": float("nan")}, "no plain finite JSON"),
        ({"metadata": {"x": float("inf")}}, "no plain finite JSON"),
        ({"metadata": {"x": "y" * 20_000}}, "metadata: expected at most 16384 bytes"),
        ({"rationale": "  "}, "rationale"),
        ({"rationale": "x" * 4001}, "at most 4000 characters"),
        ({"symbol": "A\nB"}, "symbol: expected printable text"),
        ({"author": ""}, "author: expected printable text"),
        ({"created_ns": 999}, "created_ns >= trade_ns"),
        ({"trade_ns": 0}, "trade_ns > 0"),
        ({"context_window_start_ns": 5}, "context_window_start_ns IS NULL"),
        ({"context_window_start_ns": 5, "context_window_end_ns": 4}, "context_window_end_ns >= context_window_start_ns"),
    ],
)
def test_what_the_schema_does_not_allow_is_refused_and_leaves_nothing(
    change: dict[str, object], message: str, store: sqlite3.Connection, cfg: FeedbackConfig
) -> None:
    with pytest.raises(ContractError, match=message):
        append(store, replace(ONE, **change), cfg)  # type: ignore[arg-type]
    assert read(store, FAR).is_empty()
    append(store, ONE, cfg)


def test_a_symbol_is_data_and_never_sql(store: sqlite3.Connection, cfg: FeedbackConfig) -> None:
    name = "x'; DROP TABLE trade_annotations;--"
    append(store, replace(ONE, symbol=name, rationale=name), cfg)
    assert read(store, FAR)["symbol"].to_list() == [name]


def test_reading_as_of_a_time_does_not_show_what_was_said_later(store: sqlite3.Connection, cfg: FeedbackConfig) -> None:
    append(store, ONE, cfg)
    append(store, replace(ONE, client_key="desk-2", created_ns=5_000), cfg)
    assert len(read(store, 4_999)) == 1
    assert read(store, 5_000, after_id=1)["annotation_id"].to_list() == [2]


def test_what_is_committed_is_there_for_another_reader_at_once(store: sqlite3.Connection, cfg: FeedbackConfig, tmp_path: Path) -> None:
    append(store, ONE, cfg)
    other = open_store(tmp_path / "annotations.sqlite", cfg)
    assert len(read(other, FAR)) == 1
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


def test_another_database_is_refused_and_not_touched(tmp_path: Path, cfg: FeedbackConfig) -> None:
    foreign = tmp_path / "foreign.sqlite"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE t (x)")
    connection.commit()
    connection.close()
    with pytest.raises(ArtifactError, match="found another database"):
        open_store(foreign, cfg)
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, but long enough to be read as one" * 10)
    with pytest.raises(ArtifactError, match="no annotation store"):
        open_store(text, cfg)
