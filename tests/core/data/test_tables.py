"""Tables of a class: typed, sorted, whole, and with the time at which each row was known."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from plusultra_core.clock import NS_PER_DAY, NS_PER_S, iso
from plusultra_core.data.bars import build_bars
from plusultra_core.data.contract.frames import FRAMES
from plusultra_core.data.contract.validation import validate
from plusultra_core.data.gate.dump import check_dump
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import TABLES, DataConfig, build_table, classes_in
from plusultra_core.errors import ConfigError
from plusultra_core.market import ASSET_CLASSES, MarketConfig

MakeDump = Callable[..., Path]
Table = Callable[..., pl.DataFrame]
REAL = ("market_tiny", "market_2017_a", "market_2017_b", "crypto_2026_a", "crypto_2026_b")
DAY = "2020-01-05 21:00:00"


@pytest.fixture
def table(make_dump: MakeDump, tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> Table:
    """A table of a class, from the sound dump with some statements run on it."""

    def build(name: str, asset_class: str, *statements: str, cfg: DataConfig = data_cfg, **more: Any) -> pl.DataFrame:
        snapshot = take_snapshot(make_dump(*statements, **more), tmp_path / "store", cfg, markets)
        return validate(name, build_table(name, snapshot.path, asset_class, markets, cfg))

    return build


@pytest.mark.parametrize("stem", REAL)
def test_real_dumps_load_whole(
    stem: str, real_dump: Callable[[str], Path], tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    path = real_dump(stem)
    expected = json.loads(path.with_name(f"{stem}.expect.json").read_text())
    snapshot = take_snapshot(path, tmp_path, data_cfg, markets)
    assert snapshot.sha256 == expected["sha256"]
    for name, rows in snapshot.manifest["counts"].items():
        assert rows == expected["rows"][name]
    rows: dict[str, int] = dict.fromkeys(TABLES, 0)
    spans: dict[str, tuple[str, str]] = {}
    for asset_class in classes_in(snapshot.path, markets, data_cfg):
        frames = {name: build_table(name, snapshot.path, asset_class, markets, data_cfg) for name in TABLES}
        for name, frame in frames.items():
            validate(name, frame, assets=frames["assets"] if name in ("series", "indicators", "corporate_actions") else None)
            rows[name] += frame.height
        per_symbol = frames["series"].group_by("symbol").agg(pl.col("ts_ns").min().alias("first"), pl.col("ts_ns").max().alias("last"))
        spans |= {symbol: (iso(first), iso(last)) for symbol, first, last in per_symbol.iter_rows()}
        bars = build_bars(frames["series"], frames["assets"], frames["corporate_actions"], markets[asset_class], data_cfg.bars)
        validate("bars", bars, assets=frames["assets"])
    for name in ("assets", "series", "indicators"):
        assert rows[name] == expected["rows"][name]
    assert rows["corporate_actions"] == expected["rows"].get("corporate_actions", 0)
    stamp = {symbol: tuple(facts[end].replace(" ", "T") + "Z" for end in ("first", "last")) for symbol, facts in expected["series"].items()}
    assert spans == stamp


def test_each_symbol_stands_in_one_class(table: Table) -> None:
    found = {name: table("series", name)["symbol"].unique().sort().to_list() for name in ASSET_CLASSES}
    assert {name: symbols for name, symbols in found.items() if symbols} == {
        "equity": ["AAA", "BBB"],
        "etf": ["CCC"],
        "crypto": ["X/USD:P"],
    }


def test_an_absent_class_has_frames_without_rows(table: Table) -> None:
    for name in TABLES:
        frame = table(name, "forex")
        assert frame.height == 0 and set(frame.columns) == set(FRAMES[name].columns)


def test_every_notation_gives_the_same_series(table: Table) -> None:
    usual = table("series", "equity")
    for change in (
        "replace(timestamp, ' ', 'T') || 'Z'",
        "replace(timestamp, ' ', 'T') || '+00:00'",
        "CAST(strftime('%s', timestamp) AS INTEGER)",
        "CAST(strftime('%s', timestamp) AS INTEGER) * 1000",
        "CAST(strftime('%s', timestamp) AS INTEGER) * 1000000000",
    ):
        assert table("series", "equity", f"UPDATE series SET timestamp = {change}").equals(usual)


def test_numbers_written_as_text_are_numbers(table: Table) -> None:
    loose = (
        "CREATE TABLE loose AS SELECT timestamp, symbol, CAST(open AS TEXT) AS open, CAST(close AS TEXT) AS close, 7 AS volume FROM series"
    )
    frame = table("series", "equity", loose, "DROP TABLE series", "ALTER TABLE loose RENAME TO series")
    assert (
        frame["open"].to_list()[:2] == [100.5, 102.5] and frame["volume"].unique().to_list() == [7.0] and frame["high"].null_count() == 60
    )


def test_a_class_comes_from_the_symbol_then_the_exchange_then_other(table: Table) -> None:
    bare = "UPDATE assets SET metadata = NULL"
    rename = "UPDATE assets SET symbol = 'EURUSD' WHERE symbol = 'AAA'", "UPDATE series SET symbol = 'EURUSD' WHERE symbol = 'AAA'"
    lost = "UPDATE assets SET exchange = 'moon' WHERE symbol = 'CCC'"
    assert table("assets", "forex", bare, *rename, lost)["symbol"].to_list() == ["EURUSD"]
    assert "BBB" in table("assets", "equity", bare, *rename, lost)["symbol"].to_list()
    assert table("assets", "other", bare, *rename, lost)["symbol"].to_list() == ["CCC"]


def test_a_missing_bar_length_is_read_off_the_series(table: Table) -> None:
    hourly = "UPDATE series SET timestamp = strftime('%Y-%m-%d %H:%M:%S', '2020-01-01', '+' || rowid || ' hours') WHERE symbol = 'AAA'"
    silent = 'UPDATE assets SET metadata = \'{"asset_class": "equity"}\''
    assert table("assets", "equity", silent, hourly).select("symbol", "bar").rows() == [
        ("AAA", "1h"),
        ("BBB", "1d"),
        ("CCC", "1d"),
        ("X/USD:P", "1d"),
    ]


def test_assets_are_numbered_where_the_dump_does_not(table: Table) -> None:
    bare = "CREATE TABLE bare AS SELECT symbol, metadata FROM assets", "DROP TABLE assets", "ALTER TABLE bare RENAME TO assets"
    frame = table("assets", "equity", *bare)
    assert frame["asset_id"].to_list() == [1, 2] and frame["currency"].null_count() == 2


def test_known_is_time_plus_lag_or_what_the_dump_says(table: Table, data_cfg: DataConfig) -> None:
    lagged = replace(data_cfg, lags=replace(data_cfg.lags, indicators_s=3600))
    rows = f"INSERT INTO indicators VALUES ('{DAY}', 'AAA', 'rsi', 50.0, NULL)"
    frame = table("indicators", "equity", rows, cfg=lagged)
    assert (frame["known_ns"] - frame["ts_ns"]).to_list() == [3600 * NS_PER_S]
    said = (
        "ALTER TABLE indicators ADD COLUMN known_at DATETIME",
        f"UPDATE indicators SET known_at = '2020-01-07 21:00:00' WHERE timestamp = '{DAY}'",
    )
    again = "INSERT INTO indicators VALUES ('2020-01-06 21:00:00', 'AAA', 'rsi', 51.0, NULL, NULL)"
    frame = table("indicators", "equity", rows, *said, again, cfg=lagged)
    assert (frame["known_ns"] - frame["ts_ns"]).to_list() == [2 * NS_PER_DAY, 3600 * NS_PER_S]


def test_side_tables_become_one_long_frame(table: Table) -> None:
    rows = (
        f"INSERT INTO macro_rates VALUES ('{DAY}', 'UST_10YEAR', 1.5)",
        f"INSERT INTO macro_calendar VALUES ('{DAY}', 'CPI', 2.5, NULL)",
        f"INSERT INTO funding_rates VALUES ('{DAY}', 'X/USD:P', 0.01, 8)",
        f"INSERT INTO sentiment VALUES ('{DAY}', 'AAA', 0.5, 'paper'), ('{DAY}', NULL, 0.1, 'all')",
        f"INSERT INTO fundamentals VALUES ('{DAY}', 'AAA', 3.0, '2020-02-05 21:00:00')",
    )
    equity = table("side_tables", "equity", *rows)
    assert equity.select("table", "symbol", "field", "value").rows() == [
        ("macro_calendar", None, "CPI.actual", 2.5),
        ("macro_rates", None, "UST_10YEAR.value", 1.5),
        ("sentiment", None, "score", 0.1),
        ("fundamentals", "AAA", "earnings", 3.0),
        ("sentiment", "AAA", "score", 0.5),
    ]
    assert iso(equity["known_ns"].to_list()[3]) == "2020-02-05T21:00:00Z"
    crypto = table("side_tables", "crypto", *rows)
    assert crypto.filter(pl.col("table") == "funding_rates").select("symbol", "field", "value").rows() == [
        ("X/USD:P", "interval_hours", 8.0),
        ("X/USD:P", "rate", 0.01),
    ]


def test_implied_volatility_of_an_index_reaches_every_class(table: Table) -> None:
    rows = f"INSERT INTO options_implied_vol VALUES ('{DAY}', '^GSPC', 0.2), ('{DAY}', 'AAA', 0.3)"
    assert table("side_tables", "crypto", rows).select("symbol", "field", "value").rows() == [
        (None, "AAA.iv_30d", 0.3),
        (None, "^GSPC.iv_30d", 0.2),
    ]
    assert table("side_tables", "equity", rows).select("symbol", "field").rows() == [
        (None, "AAA.iv_30d"),
        (None, "^GSPC.iv_30d"),
        ("AAA", "iv_30d"),
    ]


def test_a_new_side_table_needs_no_code(table: Table, data_cfg: DataConfig) -> None:
    tides = replace(data_cfg.side_tables[0], table="tides", time_column="at", key_columns=("port",), value_columns=(), lag_s=60)
    cfg = replace(data_cfg, side_tables=(*data_cfg.side_tables, tides))
    create = "CREATE TABLE tides (at DATETIME, port TEXT, height_m REAL, moon INTEGER, note TEXT)"
    frame = table("side_tables", "etf", create, f"INSERT INTO tides VALUES ('{DAY}', 'Kiel', 1.25, 3, 'calm')", cfg=cfg)
    assert frame.select("table", "symbol", "field", "value").rows() == [
        ("tides", None, "Kiel.height_m", 1.25),
        ("tides", None, "Kiel.moon", 3.0),
    ]
    assert (frame["known_ns"] - frame["ts_ns"]).unique().to_list() == [60 * NS_PER_S]


def test_benchmarks_serve_every_class_and_need_no_asset(table: Table) -> None:
    rows = f"INSERT INTO benchmarks VALUES ('{DAY}', 'WORLD', 0.01, 100.0)"
    for asset_class in ("equity", "crypto"):
        assert table("benchmarks", asset_class, rows).select("symbol", "ret_simple", "level").rows() == [("WORLD", 0.01, 100.0)]


def test_trades_keep_their_numbers(table: Table) -> None:
    rows = f"INSERT INTO trades VALUES (7, '{DAY}', 'AAA', 'long', 10, 101.0, 1.0, 2.5, -3.0, NULL)"
    assert table("trades", "equity", rows).select("trade_id", "side", "slippage_bps", "pnl").rows() == [(7, "long", 2.5, -3.0)]


def test_legal_odd_symbols_come_through(table: Table) -> None:
    odd = ["x'; DROP TABLE series;--", "../../etc/x", '"q"']
    rows: list[tuple[str, tuple[object, ...]]] = []
    for number, symbol in enumerate(odd, 10):
        rows.append(('INSERT INTO assets VALUES (?, ?, NULL, NULL, NULL, \'{"asset_class": "other"}\')', (number, symbol)))
        rows.append(
            (
                "INSERT INTO series SELECT timestamp, ?, open, high, low, close, volume, vwap, turnover FROM series WHERE symbol = 'AAA'",
                (symbol,),
            )
        )
    assert table("series", "other", rows=rows).group_by("symbol").len().sort("symbol").rows() == [(symbol, 30) for symbol in sorted(odd)]


def test_quarantined_symbols_are_in_no_table(
    table: Table, data_cfg: DataConfig, make_dump: MakeDump, markets: dict[str, MarketConfig]
) -> None:
    cfg = replace(data_cfg, validation=replace(data_cfg.validation, mode="quarantine"))
    bad = f"UPDATE series SET close = x'00', timestamp = 'soon' WHERE symbol = 'AAA' AND timestamp = '{DAY}'"
    assert check_dump(make_dump(bad), cfg, markets).quarantined == ("AAA",)
    for name in ("assets", "series"):
        assert table(name, "equity", bad, cfg=cfg)["symbol"].unique().to_list() == ["BBB"]


def test_unknown_names_are_refused(tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> None:
    with pytest.raises(ConfigError, match="table: expected one of"):
        build_table("gossip", tmp_path, "equity", markets, data_cfg)
    with pytest.raises(ConfigError, match="asset_class: expected one of"):
        build_table("series", tmp_path, "tulips", markets, data_cfg)


def test_an_unknown_adjustment_is_never_applied_twice(table: Table) -> None:
    for stated, taken in (('"magic"', "split+dividend"), ("null", "none"), ('"split"', "split"), ("7", "split+dividend")):
        metadata = f'{{"asset_class": "equity", "price_adjustment": {stated}}}'
        frame = table("assets", "equity", rows=[("UPDATE assets SET metadata = ? WHERE symbol = 'AAA'", (metadata,))])
        assert frame["price_adjustment"].to_list() == [taken, "none"]


def test_column_names_in_other_letters_are_read(table: Table) -> None:
    usual = table("series", "equity")
    rename = [f"ALTER TABLE {old} RENAME TO {new}" for old, new in (("series", "other"), ("other", "Series"))]
    assert table("series", "equity", "ALTER TABLE series RENAME COLUMN close TO CLOSE", *rename).equals(usual)


def test_tables_are_read_without_the_dump(
    make_dump: MakeDump, tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    snapshot = take_snapshot(make_dump(), tmp_path / "store", data_cfg, markets)
    (snapshot.path / "dump.sqlite").unlink()
    assert classes_in(snapshot.path, markets, data_cfg) == ("crypto", "equity", "etf")
    assert [build_table(name, snapshot.path, "equity", markets, data_cfg).height for name in TABLES] == [2, 60, 0, 0, 0, 0, 0, 0]


def test_tables_do_not_depend_on_how_many_rows_went_together(
    real_dump: Callable[[str], Path],
    tmp_path: Path,
    data_cfg: DataConfig,
    markets: dict[str, MarketConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = take_snapshot(real_dump("market_tiny"), tmp_path / "whole", data_cfg, markets)
    for module, name, rows in (
        ("rows", "_FETCH_ROWS", 10),
        ("rows", "BLOCK_ROWS", 30),
        ("ingest", "RUN_ROWS", 100),
        ("ingest", "GROUP_ROWS", 150),
    ):
        monkeypatch.setattr(f"plusultra_core.data.gate.{module}.{name}", rows)
    parts = take_snapshot(real_dump("market_tiny"), tmp_path / "parts", data_cfg, markets)
    assert {**parts.manifest, "files": None} == {**whole.manifest, "files": None}
    for asset_class in classes_in(whole.path, markets, data_cfg):
        for name in TABLES:
            one, other = (build_table(name, snapshot.path, asset_class, markets, data_cfg) for snapshot in (whole, parts))
            assert one.equals(other)


def test_corporate_actions_may_have_other_names(
    table: Table, make_dump: MakeDump, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    names = {"table": "events", "time_column": "ex", "symbol_column": "ticker", "action_column": "kind", "ratio_column": "factor"}
    cfg = replace(data_cfg, corporate_actions=replace(data_cfg.corporate_actions, **names))
    create = "CREATE TABLE events (ex DATETIME, ticker, kind, factor REAL)"
    rows = "INSERT INTO events VALUES ('2020-01-16 14:30:00', 'AAA', 'split', 120.0)"
    jump = "UPDATE series SET open = 1, high = 1, low = 1, close = 1 WHERE symbol = 'AAA' AND timestamp > '2020-01-16'"
    frame = table("corporate_actions", "equity", create, rows, jump, "DROP TABLE corporate_actions", cfg=cfg)
    assert frame.select("symbol", "action", "ratio", "amount").rows() == [("AAA", "split", 120.0, None)]
    report = check_dump(make_dump(create, rows, jump), cfg, markets)
    assert {finding.code for finding in report.findings} == {"unknown_table"}  # the old table; the jump is explained
