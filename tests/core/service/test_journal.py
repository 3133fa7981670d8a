"""The journal: append-only, whole requests, and found again by id."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plusultra_core.errors import ArtifactError
from plusultra_core.service.journal import PredictionRow, open_journal, read_prediction, write_predictions

ROW = PredictionRow("a" * 32, "b" * 32, 5, "AAPL", 3, "none", "c" * 64, "d" * 64, "e" * 64, "{}")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = open_journal(tmp_path / "deep" / "journal.sqlite")
    yield connection
    connection.close()


def test_a_prediction_is_found_by_its_id_after_reopening(journal: sqlite3.Connection, tmp_path: Path) -> None:
    write_predictions(journal, [ROW])
    again = open_journal(tmp_path / "deep" / "journal.sqlite")
    assert read_prediction(again, ROW.prediction_id) == ROW
    assert read_prediction(again, "x") is None
    again.close()


def test_the_rows_of_a_request_are_written_all_or_none(journal: sqlite3.Connection) -> None:
    broken = ROW._replace(prediction_id="f" * 32, served_sha256="short")
    with pytest.raises(sqlite3.IntegrityError):
        write_predictions(journal, [ROW, broken])
    assert read_prediction(journal, ROW.prediction_id) is None
    write_predictions(journal, [ROW])


@pytest.mark.parametrize(
    "statement",
    ["UPDATE predictions SET reason = 'x'", "DELETE FROM predictions", "REPLACE INTO predictions SELECT * FROM predictions"],
)
def test_history_cannot_be_rewritten(journal: sqlite3.Connection, statement: str) -> None:
    write_predictions(journal, [ROW])
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        journal.execute(statement)


def test_every_answer_can_be_walked_back(door: Any) -> None:
    body = door.forecast({"symbols": ["AAPL"]}).json()
    row = read_prediction(door.journal, body["predictions"][0]["prediction_id"])
    assert row is not None
    assert (row.request_id, row.served_sha256, row.ts_ns) == (body["request_id"], door.state.served.sha256, body["predictions"][0]["ts_ns"])


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no database at all, only words " * 20)
    with pytest.raises(ArtifactError, match="no service journal"):
        open_journal(tmp_path / "x")
