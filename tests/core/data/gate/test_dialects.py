"""Dumps as other exporters write them: accepted, told of once, and the same tables at the end."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from plusultra_core.data.contract.validation import validate
from plusultra_core.data.gate.dump import check_dump
from plusultra_core.data.gate.findings import DumpReport
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import TABLES, DataConfig, build_table
from plusultra_core.market import MarketConfig

MakeDump = Callable[..., Path]
Loaded = tuple[DumpReport, dict[str, dict[str, pl.DataFrame]]]
Load = Callable[[Path], Loaded]


@pytest.fixture
def load(tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> Load:
    """Through the gate, into a snapshot, and every table of every class of it, each as its contract wants it."""

    def run(path: Path) -> Loaded:
        report = check_dump(path, data_cfg, markets)
        assert report.accepted, [finding.message for finding in report.errors]
        taken = take_snapshot(path, tmp_path / "snapshots", data_cfg, markets)
        assert taken.manifest["findings"] == [finding.to_dict() for finding in report.findings]
        made = {
            asset_class: {name: validate(name, build_table(name, taken.path, asset_class, markets, data_cfg)) for name in TABLES}
            for asset_class in report.classes
        }
        return report, made

    return run


def _said(report: DumpReport) -> list[tuple[str, str, str | None]]:
    return [(finding.code, finding.table, finding.column) for finding in report.findings]


def _assert_same_tables(made: Loaded, expected: Loaded) -> None:
    assert made[1].keys() == expected[1].keys()
    for asset_class, tables in expected[1].items():
        for name, frame in tables.items():
            assert_frame_equal(made[1][asset_class][name].drop("metadata", strict=False), frame.drop("metadata", strict=False))


KEYED = """
CREATE TABLE assets (asset_id INTEGER PRIMARY KEY, symbol TEXT NOT NULL UNIQUE, sector TEXT, currency TEXT, exchange TEXT,
    metadata TEXT) STRICT;
CREATE TABLE series (timestamp TEXT, symbol TEXT REFERENCES assets (symbol), open REAL, high REAL, low REAL, close REAL NOT NULL
    CHECK (close > 0), volume REAL, vwap REAL, turnover REAL, PRIMARY KEY (timestamp, symbol)) WITHOUT ROWID;
CREATE TABLE indicators (timestamp TEXT, symbol TEXT, name TEXT, value REAL, metadata TEXT, PRIMARY KEY (symbol, name, timestamp DESC));
CREATE INDEX by_symbol ON series (symbol, timestamp);
CREATE TRIGGER no_changes BEFORE UPDATE ON series BEGIN SELECT RAISE (ABORT, 'read only'); END;
CREATE VIEW closes AS SELECT timestamp, symbol, close FROM series;
"""
BARE = """
CREATE TABLE assets (asset_id, symbol, sector, currency, exchange, metadata);
CREATE TABLE series (timestamp, symbol, open, high, low, close, volume, vwap, turnover);
CREATE TABLE indicators (timestamp, symbol, name, value, metadata);
"""


def _written_as(path: Path, schema: str) -> Path:
    """The rows of a dump under other declarations."""
    other = path.with_name(f"other_{path.name}")
    with closing(sqlite3.connect(other, isolation_level=None)) as db:
        db.execute("ATTACH ? AS old", (str(path),))
        db.executescript(schema)
        for table in ("assets", "series", "indicators"):
            db.execute(f"INSERT INTO main.{table} SELECT * FROM old.{table} ORDER BY rowid * 7919 % 31, rowid")
    return other


RSI = "INSERT INTO indicators SELECT timestamp, symbol, 'rsi', 50.0, NULL FROM series"


def test_keys_indices_and_triggers_change_nothing(make_dump: MakeDump, load: Load) -> None:
    path = make_dump(RSI)
    bare, keyed = load(_written_as(path, BARE)), load(_written_as(path.rename(path.with_name("keyed.sqlite")), KEYED))
    missing = [("missing_table", name, None) for name in ("benchmarks", "trades", "regimes", "cross_asset_views", "trade_annotations")]
    assert _said(bare[0]) == [*missing, ("missing_table", "side_tables", None)]
    assert _said(keyed[0]) == [*_said(bare[0]), ("unknown_table", "closes", None)]
    assert bare[1]["equity"]["series"].height == 60 and bare[1]["equity"]["indicators"].height == 60
    _assert_same_tables(keyed, bare)


def test_assets_by_symbol_name_and_class(make_dump: MakeDump, load: Load) -> None:
    """No asset_id, no currency, no metadata: a column says the class."""
    sound = load(make_dump())
    statements = (
        "CREATE TABLE named (symbol TEXT, name TEXT, asset_class TEXT)",
        "INSERT INTO named SELECT symbol, 'The ' || symbol || ' Company', upper(json_extract(metadata, '$.asset_class')) FROM assets",
        "DROP TABLE assets",
        "ALTER TABLE named RENAME TO assets",
    )
    report, made = load(make_dump(*statements, name="named.sqlite"))
    assert _said(report) == [("unknown_column", "assets", "name")]
    assert report.classes == {"crypto": 1, "equity": 2, "etf": 1}
    assets = made["equity"]["assets"]
    assert assets.select("asset_id", "symbol", "currency", "bar", "price_adjustment").rows() == [
        (1, "AAA", None, "1d", "none"),
        (2, "BBB", None, "1d", "none"),
    ]
    assert_frame_equal(made["etf"]["series"], sound[1]["etf"]["series"])


def test_what_the_metadata_states_comes_before_the_column(make_dump: MakeDump, load: Load) -> None:
    column = ("ALTER TABLE assets ADD COLUMN asset_class TEXT", "UPDATE assets SET asset_class = 'commodity'")
    nothing_else = "UPDATE assets SET metadata = NULL, exchange = NULL WHERE symbol = 'CCC'"
    unknown = "UPDATE assets SET metadata = NULL, exchange = NULL, asset_class = 'tulips' WHERE symbol = 'BBB'"
    report, _ = load(make_dump(*column, nothing_else, unknown))
    assert report.classes == {"commodity": 1, "crypto": 1, "equity": 1, "other": 1}
    assert _said(report) == [("class_other", "assets", "asset_class")] and report.warnings[0].symbols == ("BBB",)


@pytest.mark.parametrize("num_columns", [1, 60])
def test_engineered_columns_in_the_series_are_told_of_once(num_columns: int, make_dump: MakeDump, load: Load) -> None:
    sound = load(make_dump())
    columns = [f"feature_{number:02d}" for number in range(num_columns)]
    added = [f"ALTER TABLE series ADD COLUMN {column} REAL" for column in columns]
    filled = "UPDATE series SET " + ", ".join(f"{column} = rowid * 0.5" for column in columns)
    report, made = load(make_dump(*added, filled, name="wide.sqlite"))
    (finding,) = report.findings
    assert (finding.code, finding.table) == ("unknown_column", "series")
    assert "feature_00" in finding.message and (num_columns == 1 or "and 40 more" in finding.message)
    _assert_same_tables((report, made), sound)


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
@pytest.mark.parametrize("page_size", [512, 65536])
def test_any_encoding_and_any_page_size(encoding: str, page_size: int, make_dump: MakeDump, load: Load) -> None:
    path = make_dump("UPDATE assets SET symbol = 'Ünï' WHERE symbol = 'AAA'", "UPDATE series SET symbol = 'Ünï' WHERE symbol = 'AAA'")
    other = path.with_name("other.sqlite")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(other)) as target:
        target.execute(f"PRAGMA encoding = '{encoding}'")
        target.execute(f"PRAGMA page_size = {page_size}")
        for line in source.iterdump():
            target.execute(line)
        target.commit()
    report, made = load(other)
    assert report.findings == () and made["equity"]["series"]["symbol"].unique().sort().to_list() == ["BBB", "Ünï"]
    _assert_same_tables((report, made), load(path))


def test_symbols_that_are_paths_and_sql_load_like_any_other(make_dump: MakeDump, load: Load) -> None:
    legal = ["x'; DROP TABLE series;--", "../../etc/x", "BTC/USDT:USDT", "^GSPC", '"quoted"', "%s{0}", "日経平均", "Z" * 128]
    rows: list[tuple[str, tuple[object, ...]]] = []
    for number, symbol in enumerate(legal, 10):
        rows.append(('INSERT INTO assets VALUES (?, ?, NULL, NULL, NULL, \'{"asset_class": "other"}\')', (number, symbol)))
        rows.append(("INSERT INTO series SELECT timestamp, ?, 1, 2, 1, 1 + rowid % 3 * 0.5, 9, 1, 9 FROM series LIMIT 30", (symbol,)))
    report, made = load(make_dump(rows=rows))
    assert report.findings == ()
    assert sorted(made["other"]["series"]["symbol"].unique()) == sorted(legal)


def test_real_numbers_with_whole_values_and_integers_are_one(make_dump: MakeDump, load: Load) -> None:
    """SQLite stores 100.0 as 100 in a column declared INTEGER or NUMERIC, and gives back what it stored."""
    typed = "timestamp, symbol, open NUMERIC, high INTEGER, low NUMERIC, close NUMERIC, volume INTEGER, vwap REAL, turnover"
    statements = (f"CREATE TABLE whole ({typed})", "INSERT INTO whole SELECT * FROM series", "DROP TABLE series")
    _assert_same_tables(load(make_dump(*statements, "ALTER TABLE whole RENAME TO series")), load(make_dump(name="real.sqlite")))
