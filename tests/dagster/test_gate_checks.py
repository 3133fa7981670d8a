"""What the UI shows of a dump that passed with a word: warnings, what was set aside, and what changed since the one before."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from plusultra_core.data.snapshot import open_snapshot
from plusultra_dagster.cli import app
from plusultra_dagster.places import Places
from plusultra_dagster.resources.landing import key_of

Run = Callable[..., dg.ExecuteInProcessResult]
LAST = "timestamp >= (SELECT timestamp FROM series ORDER BY timestamp DESC LIMIT 1 OFFSET 29)"
SHORTER = (f"DELETE FROM series WHERE {LAST}",)
"""Three symbols without their last ten bars: the dump as it was ten days before."""


def _land(home: Places, dump: Path, name: str, *statements: str) -> str:
    """A changed copy of a dump in the landing folder; its snapshot key."""
    path = Path(shutil.copyfile(dump, home.landing / f"{name}.sqlite"))
    path.chmod(0o644)
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
        db.execute("VACUUM")
    return key_of(path)


def _first(symbol: str, place: int) -> str:
    return f"symbol = '{symbol}' AND timestamp = (SELECT timestamp FROM series WHERE symbol = '{symbol}' ORDER BY 1 LIMIT 1 OFFSET {place})"


class Told:
    """What one materialisation of a snapshot said: its metadata and its checks."""

    def __init__(self, result: dg.ExecuteInProcessResult) -> None:
        assert result.success
        (event,) = result.asset_materializations_for_node("snapshot")
        self.metadata = {name: value.value for name, value in event.metadata.items()}
        self.checks = {found.check_name: found for found in result.get_asset_check_evaluations()}

    def of(self, check: str) -> dict[str, Any]:
        return {name: value.value for name, value in self.checks[check].metadata.items()}

    def table(self, check: str, name: str) -> list[dict[str, Any]]:
        value = self.checks[check].metadata[name]
        assert isinstance(value, dg.TableMetadataValue), value
        return [dict(record.data) for record in value.records]


@pytest.fixture
def symbols(tiny_dump: Path) -> list[str]:
    with closing(sqlite3.connect(tiny_dump)) as db:
        return [symbol for (symbol,) in db.execute("SELECT DISTINCT symbol FROM series ORDER BY 1")]


def test_the_first_dump_of_a_universe_has_nothing_to_be_compared_with(landed: str, run: Run) -> None:
    told = Told(run("take_snapshot", ["snapshot"], landed))
    assert told.checks["revisions"].passed and told.of("revisions") == {"previous": "none: first of its universe"}
    assert told.metadata["previous"] == "none: first of its universe" and told.metadata["symbols_quarantined"] == 0
    assert told.checks["quarantine"].passed and told.of("quarantine")["rows"] == 0


def test_warnings_are_counted_by_code_with_what_they_mean(landed: str, home: Places, run: Run) -> None:
    told = Told(run("take_snapshot", ["snapshot"], landed))
    found = open_snapshot(home.snapshots, landed).manifest["findings"]
    check = told.checks["findings"]
    assert found and not check.passed and check.severity == dg.AssetCheckSeverity.WARN
    by_code = told.table("findings", "by code")
    assert sum(int(row["findings"]) for row in by_code) == len(found) == told.of("findings")["findings"]
    assert all(row["means"] and row["remedy"] for row in by_code)
    for row in by_code:
        assert told.metadata[f"warnings.{row['code']}"] == int(row["findings"])
    assert [row["message"] for row in told.table("findings", "list")] == [finding["message"] for finding in found]


def test_a_file_that_was_renamed_in_the_landing_folder_is_taken_under_its_key(home: Places, tiny_dump: Path, run: Run) -> None:
    key = _land(home, tiny_dump, "first name")
    (home.landing / "first name.sqlite").rename(home.landing / "second.sqlite")
    Told(run("take_snapshot", ["snapshot"], key))
    assert [path.name for path in home.snapshots.iterdir()] == [key] and open_snapshot(home.snapshots, key).manifest["key"] == key


def test_a_finding_that_names_every_symbol_stays_small_in_the_event_log(home: Places, tiny_dump: Path, run: Run) -> None:
    numbers = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 400)"
    key = _land(home, tiny_dump, "many", f"{numbers} INSERT INTO assets (symbol) SELECT 'SYMBOL OF MANY LETTERS ' || i FROM n")
    told = Told(run("take_snapshot", ["snapshot"], key))
    listed = told.table("findings", "list")
    assert any(row["symbols"].endswith("\u2026") for row in listed)
    assert max(len(cell) for row in listed for cell in row.values()) <= 1_001


def test_a_later_dump_tells_what_is_new_and_warns_of_nothing(home: Places, tiny_dump: Path, run: Run) -> None:
    before = _land(home, tiny_dump, "day", *SHORTER)
    Told(run("take_snapshot", ["snapshot"], before))
    told = Told(run("take_snapshot", ["snapshot"], _land(home, tiny_dump, "later")))
    check = told.checks["revisions"]
    assert check.passed and check.severity == dg.AssetCheckSeverity.WARN
    said = told.of("revisions")
    assert (said["previous"], said["rows_new"], said["rows_revised"], said["rows_gone"], said["symbols_new"]) == (before, 30, 0, 0, 0)
    assert told.table("revisions", "by table") == [{"table": "series", "new": "30", "late": "0", "revised": "0", "gone": "0"}]
    assert (told.metadata["previous"], told.metadata["rows_new"], told.metadata["rows_revised"]) == (before, 30, 0)


def test_a_restated_past_is_a_warning_with_its_rows_and_blocks_nothing(home: Places, tiny_dump: Path, run: Run, symbols: list[str]) -> None:
    before = _land(home, tiny_dump, "day", *SHORTER)
    Told(run("take_snapshot", ["snapshot"], before))
    restated = f"UPDATE series SET close = close * 1.001, high = high * 1.01 WHERE {_first(symbols[0], 40)}"
    lost = f"DELETE FROM series WHERE {_first(symbols[1], 50)}"
    told = Told(run("take_snapshot", ["snapshot"], _land(home, tiny_dump, "later", restated, lost)))
    check = told.checks["revisions"]
    assert not check.passed and check.severity == dg.AssetCheckSeverity.WARN
    assert told.metadata["rows_revised"] == 1 and told.metadata["rows_gone"] == 1 and told.metadata["rows_new"] == 30
    changes = {(row["kind"], row["symbol"], row["column"]): row for row in told.table("revisions", "changes")}
    assert set(changes) == {("revised", symbols[0], "close"), ("revised", symbols[0], "high"), ("gone", symbols[1], "")}
    assert float(changes["revised", symbols[0], "close"]["largest_change"]) == pytest.approx(0.001)
    assert [row["code"] for row in told.table("revisions", "list")] == ["history_revised", "rows_gone"]


def test_what_is_set_aside_is_shown_by_symbol_and_row(
    home: Places, tiny_dump: Path, run: Run, symbols: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from plusultra_dagster.config import Data

    read = Data.load
    monkeypatch.setattr(Data, "load", lambda self, cls: read(Data(overrides={"validation.mode": "quarantine"}), cls))
    broken = (f"UPDATE series SET close = 0 WHERE {_first(symbols[0], 3)}", f"UPDATE series SET volume = -1 WHERE {_first(symbols[0], 5)}")
    told = Told(run("take_snapshot", ["snapshot"], _land(home, tiny_dump, "broken", *broken)))
    check = told.checks["quarantine"]
    assert not check.passed and check.severity == dg.AssetCheckSeverity.WARN
    assert told.of("quarantine")["symbols"] == 1 and told.metadata["symbols_quarantined"] == 1
    by_symbol = told.table("quarantine", "by symbol")
    assert {(row["symbol"], row["table"], row["code"]) for row in by_symbol} >= {
        (symbols[0], "series", "not_positive"),
        (symbols[0], "series", "negative"),
    }
    assert told.of("quarantine")["rows"] == sum(int(row["rows"]) for row in by_symbol) > 0
    assert told.table("quarantine", "rows set aside")


def test_a_threshold_that_changed_since_is_the_one_that_is_told_of(
    home: Places, tiny_dump: Path, run: Run, symbols: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from plusultra_dagster.config import Data

    key = _land(home, tiny_dump, "day", f"UPDATE series SET close = close * 3, high = high * 3 WHERE {_first(symbols[0], 40)}")
    told = Told(run("take_snapshot", ["snapshot"], key))
    assert (
        "price_jump" not in {row["code"] for row in told.table("findings", "by code")}
        and told.of("findings")["judged"] == "when it was taken"
    )
    read = Data.load
    monkeypatch.setattr(Data, "load", lambda self, cls: read(Data(overrides={"history.jump_ratio": 2.0}), cls))
    told = Told(run("take_snapshot", ["snapshot"], key))
    by_code = {row["code"]: int(row["findings"]) for row in told.table("findings", "by code")}
    assert by_code["price_jump"] == told.metadata["warnings.price_jump"] == 1 and told.of("findings")["judged"].startswith("now")


def test_the_command_line_finds_what_the_checks_find(home: Places, tiny_dump: Path, run: Run, symbols: list[str]) -> None:
    Told(run("take_snapshot", ["snapshot"], _land(home, tiny_dump, "day", *SHORTER)))
    key = _land(home, tiny_dump, "later", f"UPDATE series SET close = close * 1.001, high = high * 1.01 WHERE {_first(symbols[0], 40)}")
    path = home.landing / "later.sqlite"
    said = CliRunner().invoke(app, ["dump", "check", str(path), "--json"])
    assert said.exit_code == 0, said.output
    report = json.loads(said.stdout.splitlines()[-1])
    assert not (home.snapshots / key).exists()
    told = Told(run("take_snapshot", ["snapshot"], key))
    gate = open_snapshot(home.snapshots, key).manifest["findings"]
    revised = [{name: str(value) for name, value in finding.items()} for finding in report["findings"][len(gate) :]]
    assert report["findings"][: len(gate)] == gate
    assert [row["message"] for row in told.table("revisions", "list")] == [finding["message"] for finding in revised] != []
    assert report["previous"] == told.metadata["previous"] and report["since_previous"]["rows_new"] == told.metadata["rows_new"] == 30
    assert f"since {report['previous']}" in said.stdout


def test_bars_are_held_against_the_calendar(home: Places, tiny_dump: Path, run: Run, symbols: list[str]) -> None:
    key = _land(home, tiny_dump, "holes", f"DELETE FROM series WHERE {_first(symbols[0], 40)}")
    assert run("take_snapshot", ["snapshot"], key).success
    result = run("refresh_tables", ["assets", "series", "corporate_actions", "bars"], key, "equity")
    (event,) = result.asset_materializations_for_node("bars")
    told = {name: value.value for name, value in event.metadata.items()}
    assert told["missing_bars"] == 1 and told["extra_bars"] == 0 and "1 of 2 symbols differ from the calendar XNYS" in told["calendar"]
    table = event.metadata["bars against the calendar"]
    assert isinstance(table, dg.TableMetadataValue)
    (row,) = (dict(record.data) for record in table.records)
    assert (row["symbol"], row["missing"], len(str(row["missing_days"]).split())) == (symbols[0], 1, 1)
    assert told["symbols_trading"] == 2 and told["delisted"] == "nobody" and "currencies" not in told


def test_bars_say_who_is_gone(home: Places, tiny_dump: Path, run: Run, symbols: list[str]) -> None:
    gone = f"UPDATE assets SET currency = 'EUR', metadata = json_set(metadata, '$.delisted', '2000-01-03') WHERE symbol = '{symbols[0]}'"
    key = _land(home, tiny_dump, "gone", gone, "DELETE FROM corporate_actions")  # dividends in dollars on a price in euros are refused
    assert run("take_snapshot", ["snapshot"], key).success
    (event,) = run("refresh_tables", ["assets", "series", "corporate_actions", "bars"], key, "equity").asset_materializations_for_node(
        "bars"
    )
    told = event.metadata
    assert told["symbols_trading"].value == told["symbols_metadata"].value == 1 and symbols[0] in str(told["currencies"].value)
    assert isinstance(told["delisted"], dg.TableMetadataValue)
    assert [dict(record.data) for record in told["delisted"].records] == [
        {"symbol": symbols[0], "reason": "metadata", "since": "2000-01-04"}
    ]


@pytest.mark.parametrize(
    ("earlier", "later", "rows_new", "warned"),
    [
        (
            "market_2017_a",
            "market_2017_b",
            14_133,
            {"missing_table", "unknown_table", "long_gap", "missing_bars", "stray_print", "zero_volume"},
        ),
        ("crypto_2026_a", "crypto_2026_b", 28_663, {"missing_table"}),
    ],
)
def test_a_real_dump_and_the_one_after_it(
    earlier: str, later: str, rows_new: int, warned: set[str], home: Places, run: Run, real_dump: Callable[[str], Path]
) -> None:
    keys = [key_of(Path(shutil.copyfile(real_dump(name), home.landing / f"{name}.sqlite"))) for name in (earlier, later)]
    first, second = (Told(run("take_snapshot", ["snapshot"], key)) for key in keys)
    assert first.metadata["previous"] == "none: first of its universe" and second.metadata["previous"] == keys[0]
    found = second.of("revisions")
    assert second.checks["revisions"].passed and second.checks["quarantine"].passed
    counts = ("rows_new", "rows_late", "rows_revised", "rows_gone", "symbols_new", "symbols_gone")
    assert [found[name] for name in counts] == [second.metadata[name] for name in counts] == [rows_new, 0, 0, 0, 0, 0]
    assert {row["code"] for row in second.table("findings", "by code")} == warned
