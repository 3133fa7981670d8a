"""The commands for analysts: what is said lies in the store of this home, from now on, or a sentence says why not."""

import json
from contextlib import closing
from pathlib import Path

from typer.testing import CliRunner

from plusultra_core.clock import now_ns
from plusultra_core.config import load
from plusultra_core.feedback.annotations import FeedbackConfig, open_store, read
from plusultra_dagster.cli import app
from plusultra_dagster.places import CONFIGS, Places

SAID = ["--trade", "sized_hybrid:12", "--at", "2016-12-20T21:00:00Z", "--symbol", "AAPL", "--reason", "earnings tomorrow", "--by", "ana"]


def rows_of(at: Places) -> list[dict[str, object]]:
    with closing(open_store(at.feedback / "annotations.sqlite", load(FeedbackConfig, CONFIGS / "smoke/feedback.yaml"))) as store:
        return read(store, now_ns()).to_dicts()


def test_what_is_added_lies_where_the_asset_reads_it(home: Places) -> None:
    before = now_ns()
    answer = CliRunner().invoke(app, ["annotations", "add", *SAID, "--decision", "reject", "--confidence", "0.8", "--tag", "event"])
    assert answer.exit_code == 0, answer.output
    assert "1 added; known from 2" in answer.output and "Z; 0 known already" in answer.output
    (row,) = rows_of(home)
    assert (row["symbol"], row["decision"], row["author"], row["confidence"]) == ("AAPL", "reject", "ana", 0.8)
    assert before <= int(str(row["created_ns"])) <= now_ns()
    again = CliRunner().invoke(app, ["annotations", "add", *SAID, "--decision", "reject", "--confidence", "0.8", "--tag", "event"])
    assert again.output.endswith("0 added; 1 known already\n")


def test_a_word_that_is_none_is_one_sentence_and_nothing_is_written(home: Places) -> None:
    answer = CliRunner().invoke(app, ["annotations", "add", *SAID, "--decision", "veto"])
    assert answer.exit_code == 1
    assert answer.output == "error: annotation: decision: expected one of approve, reject, flag, hold, escalate, found 'veto'\n"
    assert rows_of(home) == []


def test_a_file_is_checked_without_being_written_and_loaded_whole(home: Places, tmp_path: Path) -> None:
    line = {"trade_id": "1", "trade_timestamp": "2016-12-20T21:00:00Z", "decision": "approve", "rationale": "trend", "author": "bob"}
    path = tmp_path / "said.jsonl"
    path.write_text("\n".join(json.dumps({**line, "trade_id": str(number)}) for number in range(3)))
    assert "3 annotations would be taken" in CliRunner().invoke(app, ["annotations", "load", str(path), "--check"]).output
    assert rows_of(home) == []
    assert "3 added" in CliRunner().invoke(app, ["annotations", "load", str(path)]).output
    path.write_text(path.read_text() + "\n" + json.dumps({**line, "created_at": "2016-12-20T21:00:00Z"}))
    refused = CliRunner().invoke(app, ["annotations", "load", str(path)])
    assert refused.exit_code == 1
    assert "said.jsonl:4: created_at: not taken" in refused.output
    assert len(rows_of(home)) == 3
