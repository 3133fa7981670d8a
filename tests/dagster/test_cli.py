"""The console script: what it says, how it ends."""

import json
import shutil
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from plusultra_core.errors import JobError
from plusultra_dagster.cli import app
from plusultra_dagster.commands.serve import require_free
from plusultra_dagster.places import Places

REFUSED = 1
USAGE = 2


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_help_names_every_command() -> None:
    shown = call("--help").output
    assert all(name in shown for name in ("run", "demo", "ui", "mlflow", "dump"))


def test_a_good_dump_is_accepted_and_its_last_line_is_json(home: Places, tiny_dump: Path) -> None:
    result = call("dump", "check", tiny_dump, "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["accepted"]
    assert report["classes"] == {"equity": 2, "etf": 1}


def test_a_bad_dump_is_refused_with_table_column_reason_and_rows(home: Places, tiny_dump: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copy(tiny_dump, tmp_path / "bad.sqlite"))
    with closing(sqlite3.connect(bad)) as db:
        db.execute("UPDATE series SET close = -1 WHERE timestamp = (SELECT min(timestamp) FROM series)")
        db.commit()
    result = call("dump", "check", bad, "--json")
    assert result.exit_code == REFUSED
    assert "series.close" in result.stdout
    errors = [finding for finding in json.loads(result.stdout.splitlines()[-1])["findings"] if finding["level"] == "error"]
    assert errors[0]["table"] == "series"
    assert errors[0]["rows"]


def test_a_file_that_is_no_database_is_refused(home: Places, tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    path.write_text("no")
    assert call("dump", "check", path).exit_code == REFUSED


def test_an_unknown_profile_is_named_with_those_that_exist(home: Places, tiny_dump: Path) -> None:
    result = call("run", tiny_dump, "--profile", "huge")
    assert result.exit_code == REFUSED
    assert "expected one of ['base', 'gpu24', 'h200', 'smoke'], found 'huge'" in result.output


def test_a_synthetic_dump_is_the_same_for_the_same_seed(home: Places, tmp_path: Path) -> None:
    for name in ("a", "b"):
        result = call("dump", "make", "--synthetic", "--seed", 3, "--planted-ic", 0.2, "--num-symbols", 2, tmp_path / f"{name}.sqlite")
        assert result.exit_code == 0, result.output
    assert (tmp_path / "a.sqlite").read_bytes() == (tmp_path / "b.sqlite").read_bytes()
    assert '"ic": 0.2' in result.stdout


def test_making_a_dump_needs_one_kind(tmp_path: Path) -> None:
    assert call("dump", "make", tmp_path / "x.sqlite").exit_code == USAGE
    assert call("dump", "make", "--demo", "--synthetic", tmp_path / "x.sqlite").exit_code == USAGE


def test_what_a_demo_does_not_read_is_refused(tmp_path: Path) -> None:
    result = call("dump", "make", "--demo", "--seed", 3, tmp_path / "x.sqlite")
    assert result.exit_code == USAGE and "--num-symbols" in result.output
    assert not (tmp_path / "x.sqlite").exists()


def test_a_port_that_is_none_is_a_wrong_argument() -> None:
    assert call("ui", "--port", 99999).exit_code == USAGE


@pytest.mark.parametrize("command", ["ui", "mlflow"])
def test_a_port_that_is_taken_is_said(home: Places, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr("plusultra_dagster.commands.setup.create_tracking", lambda at: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = call(command, "--port", taken.getsockname()[1])
    assert result.exit_code == REFUSED
    assert "in use" in result.output


@pytest.mark.parametrize("chosen_by", ["--port", "PLUSULTRA_REPORTS_PORT"])
def test_a_port_that_is_taken_is_told_with_the_way_to_another(chosen_by: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(JobError, match=rf"port {port}: in use .* choose another with {chosen_by}$"):
            require_free(port, chosen_by)
    require_free(port, chosen_by)


def test_a_class_that_is_none_is_refused_before_the_dump_is_landed(home: Places, tiny_dump: Path) -> None:
    result = call("run", tiny_dump, "--asset-class", "equities", "--profile", "smoke")
    assert result.exit_code == REFUSED and "equities is none; expected of equity, etf" in result.output
    assert not list(home.landing.glob("*"))


def test_a_dump_that_is_there_is_not_written_over(tiny_dump: Path) -> None:
    before = tiny_dump.read_bytes()
    result = call("dump", "make", "--synthetic", tiny_dump)
    assert result.exit_code == USAGE and "not written over" in result.output
    assert tiny_dump.read_bytes() == before
