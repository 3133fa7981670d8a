"""The five real dumps: each loads clean, with the warnings that its README justifies and no other; a later one revises nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from plusultra_core.data.gate.dump import check_dump
from plusultra_core.data.gate.findings import DumpReport
from plusultra_core.data.revisions import Revisions, since_previous
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import DataConfig
from plusultra_core.market import MarketConfig

Find = Callable[[str], Path]
Warned = dict[tuple[str, str], tuple[str, ...]]

ETFS = ("EEM", "GLD", "HYG", "IWM", "SPY", "TLT", "XLE", "XLF", "XLK")
HALF_YEAR_2017: Warned = {
    # The README names these tables and no others; what the config knows beyond them is not there.
    ("missing_table", "side_tables"): (),
    # "corporate_actions has real dividends and splits of AAPL, MSFT and KO only, within corporate_actions_coverage": a table of its own.
    ("unknown_table", "corporate_actions_coverage"): (),
    # 908 rows of BTC-USD in 942 days: 34 are missing, 20 of them in one hole that ends on 2015-01-09.
    ("long_gap", "series"): ("BTC-USD",),
    # "no bar of CVX 2010-11-19, NEE and all ETFs but QQQ 2011-02-17"; BTC-USD as above; 2,335 rows of EURGBP and GBPUSD: the source
    # has no currencies from 2016-12-12 to 2016-12-16 (EURUSD, by the hour, has a hole of 152 hours there).
    ("missing_bars", "series"): ("BTC-USD", "CVX", *ETFS[:1], "EURGBP", "GBPUSD", *ETFS[1:4], "NEE", *ETFS[4:]),
    # Prints of the sources: BTC-USD has a low of .06 at 2017-04-16 beside closes of 1,174 to 1,179, XLF a high of 52.67 at 2011-06-16
    # beside 10.7. The crash of 2010-05-06 (PG, 35 % below) is none, nor that of 2025-10-10 in crypto_2026 (AVAX-PERP, 63 % below).
    ("stray_print", "series"): ("BTC-USD", "XLF"),
    # "2010-04-26 has volume 0 for most equities"; remarks of the table of symbols: zero_volume 1 also of GOOGL and ^IXIC, on other days.
    ("zero_volume", "series"): (
        *("AMZN", "BA", "BAC", "CAT", "CSCO", "CVX", "DIS", "FCX", "GE", "GOOGL", "GS", "HD", "INTC", "JNJ", "JPM", "KO", "MCD", "NKE"),
        *("ORCL", "PEP", "PFE", "PG", "UNH", "VZ", "WMT", "XOM", "^IXIC"),
    ),
}
EXPECTED: dict[str, Warned] = {
    # Four symbols of the same sources; GBPUSD lacks the same four days.
    "market_tiny": {("missing_table", "side_tables"): (), ("missing_bars", "series"): ("GBPUSD",)},
    "market_2017_a": HALF_YEAR_2017,
    # "no bar of AAPL on 2017-08-07 and 2017-11-08, MSFT 2017-11-08": after the end of _a.
    "market_2017_b": HALF_YEAR_2017
    | {("missing_bars", "series"): tuple(sorted((*HALF_YEAR_2017["missing_bars", "series"], "AAPL", "MSFT")))},
    # "No on-chain table"; perpetuals have no corporate actions; no sentiment, no fundamentals. Bars are complete, volumes are there.
    "crypto_2026_a": {("missing_table", "side_tables"): ()},
    "crypto_2026_b": {("missing_table", "side_tables"): ()},
}
ABSENT = {
    "market_tiny": "fundamentals, funding_rates, funding_rates_8h, macro_rates, on_chain, options_implied_vol, sentiment",
    "market_2017": "fundamentals, funding_rates, funding_rates_8h, on_chain, sentiment",
    "crypto_2026": "corporate_actions, fundamentals, on_chain, sentiment",
}


@pytest.fixture(scope="module")
def reports(real_dump: Find, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> dict[str, DumpReport]:
    return {name: check_dump(real_dump(name), data_cfg, markets) for name in EXPECTED}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_real_dump_loads_with_the_warnings_its_readme_justifies(name: str, reports: dict[str, DumpReport]) -> None:
    report = reports[name]
    assert report.accepted and report.quarantined == ()
    assert {(finding.code, finding.table): finding.symbols or () for finding in report.findings} == EXPECTED[name]
    (absent,) = (finding.message for finding in report.findings if finding.code == "missing_table")
    assert f"not in this dump: {next(tables for stem, tables in ABSENT.items() if name.startswith(stem))};" in absent


@pytest.mark.parametrize("name", EXPECTED)
def test_its_counts_are_those_of_the_readme(name: str, reports: dict[str, DumpReport], real_dump: Find) -> None:
    expected = json.loads(real_dump(name).with_name(f"{name}.expect.json").read_text())
    unread = {"regimes", "cross_asset_views", "trade_annotations", "corporate_actions_coverage"}
    assert reports[name].counts == {table: rows for table, rows in expected["rows"].items() if table not in unread}
    silent = tuple(sorted(symbol for symbol, found in expected["series"].items() if found["zero_volume"]))
    assert EXPECTED[name].get(("zero_volume", "series"), ()) == silent


def test_the_rows_that_are_shown_are_the_flaws_of_the_readme(reports: dict[str, DumpReport]) -> None:
    shown = {finding.code: finding for finding in reports["market_2017_b"].findings}
    assert shown["long_gap"].rows == ({"symbol": "BTC-USD", "days": 21.0, "until": "2015-01-09T00:00:00Z"},)
    rows = {row["symbol"]: row for row in shown["missing_bars"].rows}
    assert rows["AAPL"] == {"symbol": "AAPL", "missing": 2, "of": 1980, "first": "2017-08-07T20:00:00Z 2017-11-08T21:00:00Z"}
    assert (rows["BTC-USD"]["missing"], rows["BTC-USD"]["of"]) == (34, 1042 + 34)
    assert rows["EURGBP"]["missing"] == 4
    assert [tuple(row.values()) for row in shown["stray_print"].rows] == [
        ("BTC-USD", "low", "2017-04-16T00:00:00Z", 0.06, 1173.13),
        ("XLF", "high", "2011-06-16T20:00:00Z", 52.667, 10.818),
    ]
    assert {row["at"] for row in shown["zero_volume"].rows} == {"2010-04-26T20:00:00Z"}
    assert shown["zero_volume"].message.startswith("series.volume: 27 rows, first (symbol='AMZN', at='2010-04-26T20:00:00Z'")


@pytest.fixture(scope="module")
def store(real_dump: Find, data_cfg: DataConfig, markets: dict[str, MarketConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the snapshots of all real dumps."""
    folder = tmp_path_factory.mktemp("store")
    for name in EXPECTED:
        take_snapshot(real_dump(name), folder, data_cfg, markets)
    return folder


def _follow(store: Path, name: str, cfg: DataConfig) -> tuple[str, Revisions] | None:
    (path,) = store.glob(f"{name}-*")
    return since_previous(store, path, cfg.shapes())


@pytest.mark.parametrize(("later", "earlier"), [("market_2017_b", "market_2017_a"), ("crypto_2026_b", "crypto_2026_a")])
def test_a_later_dump_revises_nothing_and_loses_nothing(
    later: str, earlier: str, store: Path, real_dump: Find, data_cfg: DataConfig
) -> None:
    found = _follow(store, later, data_cfg)
    assert found is not None and found[0].startswith(f"{earlier}-")
    told = found[1]
    assert told.findings == () and set(told.frame["kind"]) == {"new"}
    rows = [json.loads(real_dump(name).with_name(f"{name}.expect.json").read_text())["rows"] for name in (later, earlier)]
    new = {table: count - rows[1][table] for table, count in rows[0].items() if count > rows[1][table]}
    assert {row["table"]: row["new"] for row in told.by_table()} == new
    assert told.counts == {**dict.fromkeys(told.counts, 0), "rows_new": sum(new.values())}


@pytest.mark.parametrize("first", ["market_tiny", "market_2017_a", "crypto_2026_a"])
def test_the_first_dump_of_a_universe_follows_none(first: str, store: Path, data_cfg: DataConfig) -> None:
    assert _follow(store, first, data_cfg) is None


def test_the_symbols_that_have_new_rows_are_those_that_still_trade(store: Path, data_cfg: DataConfig) -> None:
    found = _follow(store, "market_2017_b", data_cfg)
    assert found is not None
    series = found[1].frame.filter(pl.col("table") == "series")
    assert series.height == 49 and series["num_rows"].sum() == 124_527 - 113_528
    assert dict(series.select("symbol", "num_rows").iter_rows())["AAPL"] == 1978 - 1887
