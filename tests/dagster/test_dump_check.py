"""`plusultra dump check` says what the graph says: one verdict, for a terminal and as JSON."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from plusultra_core.data.gate import validation
from plusultra_core.data.gate.dump import check_dump
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import DataConfig
from plusultra_dagster.cli import app
from plusultra_dagster.commands.dumps import finding_lines
from plusultra_dagster.config import Data, markets
from plusultra_dagster.places import Places


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["dump", "check", *(str(argument) for argument in arguments)])


def changed(dump: Path, folder: Path, *statements: str) -> Path:
    """A copy of the dump, with some statements run on it."""
    path = Path(shutil.copy(dump, folder / "changed.sqlite"))
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
    return path


def test_the_command_the_gate_and_the_snapshot_agree(home: Places, tiny_dump: Path, tmp_path: Path) -> None:
    path = changed(tiny_dump, tmp_path, "ALTER TABLE series ADD COLUMN mood TEXT", "PRAGMA journal_mode = WAL")
    cfg, known = Data().load(DataConfig), markets()
    by_gate = [finding.to_dict() for finding in check_dump(path, cfg, known).findings]
    by_snapshot = take_snapshot(path, tmp_path / "snapshots", cfg, known).manifest["findings"]
    by_command = json.loads(call(path, "--json").stdout.splitlines()[-1])["findings"]
    assert by_gate == by_snapshot == by_command
    assert {"wal_mode", "unknown_column"} <= {finding["code"] for finding in by_gate}


def test_errors_come_first_each_under_its_code(home: Places, tiny_dump: Path, tmp_path: Path) -> None:
    path = changed(
        tiny_dump,
        tmp_path,
        "ALTER TABLE series ADD COLUMN mood TEXT",
        "UPDATE series SET close = 0 WHERE timestamp = (SELECT min(timestamp) FROM series)",
    )
    result = call(path)
    lines = result.stdout.splitlines()
    assert result.exit_code == 1 and lines[-1].startswith("refused")
    assert lines[0] == "1 error" and lines[1].split()[:2] == ["not_positive", "series.close:"]
    warnings = next(number for number, line in enumerate(lines) if line.endswith("warnings") or line == "1 warning")
    assert any(line.split()[0] == "unknown_column" for line in lines[warnings + 1 :])


def test_an_accepted_dump_is_read_once(home: Places, tiny_dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = take_snapshot(tiny_dump, home.snapshots, Data().load(DataConfig), markets())
    passes = []
    monkeypatch.setattr(validation, "inspect", lambda *given, inspect=validation.inspect: passes.append(1) or inspect(*given))
    said = json.loads(call(tiny_dump, "--json").stdout.splitlines()[-1])
    assert len(passes) == 1 and said["accepted"] and said["previous"] is None
    assert [path.name for path in home.snapshots.iterdir()] == [taken.key]


def test_how_the_command_ends(home: Places, tiny_dump: Path, tmp_path: Path) -> None:
    assert call(tiny_dump).exit_code == 0
    assert call(tmp_path / "none.sqlite").exit_code == 1
    assert call().exit_code == 2
    assert call(tiny_dump, "--colour").exit_code == 2


def test_a_name_in_the_dump_cannot_steer_the_terminal(home: Places, tiny_dump: Path, tmp_path: Path) -> None:
    path = changed(tiny_dump, tmp_path, 'CREATE TABLE "\x1b[2J\x07gone" (x)', 'ALTER TABLE series ADD COLUMN "a\nb\u202ec" TEXT')
    result = call(path)
    assert result.exit_code == 0 and "\\x1b[2J" in result.stdout
    assert not {letter for letter in result.stdout if not letter.isprintable()} - {"\n"}
    raw = {"level": "warning", "code": "x", "table": "t", "column": None, "message": "t: \x1b[31m", "rows": []}
    assert finding_lines({"findings": [raw], "accepted": True, "classes": {}})[1].endswith("t: \\x1b[31m")


def test_rows_that_the_sentence_quotes_are_not_said_again() -> None:
    raw = {"level": "warning", "code": "x", "table": "t", "column": None, "message": "t: 2 rows, first (at='1', gap=2)"}
    report = {"findings": [{**raw, "rows": [{"at": "1", "gap": 2}, {"at": "3", "gap": 4}]}], "accepted": True, "classes": {}}
    assert finding_lines(report)[2:] == ["        at='3', gap=4", "accepted"]


def test_a_file_that_a_writer_holds_open_is_not_compared_with_its_own_snapshot(home: Places, tiny_dump: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_dump, tmp_path / "live.sqlite"))
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("DELETE FROM series WHERE timestamp = (SELECT max(timestamp) FROM series)")
        db.commit()
        take_snapshot(path, home.snapshots, Data().load(DataConfig), markets())
        said = json.loads(call(path, "--json").stdout.splitlines()[-1])
    assert said["accepted"] and said["previous"] is None
