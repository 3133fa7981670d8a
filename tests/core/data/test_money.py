"""A dump with a share quoted in pence, a pair that says what they are worth, and a book of quotes: all the way to its bars."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from plusultra_core.data.bars import BarsConfig, build_bars, remarks
from plusultra_core.data.contract.validation import validate
from plusultra_core.data.side_tables import SideTableConfig
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import TABLES, DataConfig, build_table
from plusultra_core.errors import ContractError
from plusultra_core.market import MarketConfig
from plusultra_core.windows.quotes import build_quotes

NUM_BARS = 30
BARS = BarsConfig(as_of=None, adjustment="raw")
PENCE = "UPDATE assets SET currency = 'GBX' WHERE symbol = 'AAA'"
PAIR = "INSERT INTO assets VALUES (9, 'GBPUSD', NULL, 'USD', 'OANDA', '{\"asset_class\": \"forex\", \"bar\": \"1d\"}')"
CABLE = (
    "INSERT INTO series SELECT timestamp, 'GBPUSD', NULL, NULL, NULL, 1.2 + 0.001 * (row_number() OVER (ORDER BY timestamp)), NULL, NULL, "
    "NULL FROM series WHERE symbol = 'AAA'"
)
BOOK = (
    "CREATE TABLE quotes AS SELECT timestamp, symbol, close - 0.1 AS bid, close + 0.1 AS ask, 50.0 AS bid_size, 40.0 AS ask_size "
    "FROM series WHERE symbol = 'BBB'"
)
QUOTES = SideTableConfig(
    table="quotes",
    time_column="timestamp",
    known_at_column="known_at",
    lag_s=0,
    max_staleness_hours=None,
    symbol_column="symbol",
    key_columns=(),
    value_columns=("bid", "ask", "bid_size", "ask_size"),
    market_wide=False,
)
Make = Callable[..., dict[str, pl.DataFrame]]


@pytest.fixture
def frames(make_dump: Callable[..., Path], tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> Make:
    """Frames and bars of the equities of a dump."""

    def make(*statements: str) -> dict[str, pl.DataFrame]:
        cfg = replace(data_cfg, side_tables=(*data_cfg.side_tables, QUOTES))
        taken = take_snapshot(make_dump(*statements), tmp_path / "store", cfg, markets)
        found = {name: validate(name, build_table(name, taken.path, "equity", markets, cfg)) for name in TABLES}
        rows = build_bars(found["series"], found["assets"], found["corporate_actions"], markets["equity"], cfg.bars)
        return {**found, "bars": rows}

    return make


def quotes_of(found: dict[str, pl.DataFrame], market: MarketConfig) -> pl.DataFrame:
    return build_quotes(*(found[name] for name in ("bars", "assets", "indicators", "side_tables", "exchange_rates")), market)


def test_a_share_in_pence_is_worth_what_the_pair_said(frames: Make, markets: dict[str, MarketConfig]) -> None:
    found = frames(PENCE, PAIR, CABLE, BOOK)
    quotes = quotes_of(found, markets["equity"])
    pence, dollars = (quotes.filter(pl.col("symbol") == name) for name in ("AAA", "BBB"))
    assert pence["fx"].to_list() == pytest.approx([(1.2 + 0.001 * (i + 1)) / 100 for i in range(NUM_BARS)])
    assert set(dollars["fx"]) == {1.0} and pence["half_spread_bps"].null_count() == NUM_BARS
    close = found["bars"].filter(pl.col("symbol") == "BBB")["close"]
    assert dollars["half_spread_bps"].to_list() == pytest.approx((0.1 / close * 1e4).to_list())
    assert set(dollars["depth"]) == {40.0}
    assert "found others in AAA" in remarks(found["assets"], markets["equity"], BARS)["currencies"]


def test_pence_without_a_pair_are_refused_where_money_is_made_of_them(frames: Make, markets: dict[str, MarketConfig]) -> None:
    with pytest.raises(ContractError, match=r"turns the currency of 1 symbols into USD \(AAA in GBX\)"):
        quotes_of(frames(PENCE), markets["equity"])


def test_a_class_in_one_money_has_no_rates(frames: Make) -> None:
    found = frames(PAIR, CABLE)
    assert found["exchange_rates"].is_empty() and "exchange_rates" not in found["side_tables"]["table"]


def test_side_tables_say_what_each_symbols_money_was_worth(frames: Make) -> None:
    found = frames(PENCE, PAIR, CABLE)
    rows = found["side_tables"].filter(pl.col("table") == "exchange_rates")
    assert rows.filter(pl.col("symbol") == "BBB")["value"].to_list() == [1.0]
    own = rows.filter(pl.col("symbol") == "AAA").sort("known_ns")
    assert own["value"].to_list() == found["exchange_rates"]["rate"].to_list() and own["expires_ns"].null_count() == 0
    assert rows.filter(pl.col("symbol").is_null())["known_ns"].to_list() == [found["bars"]["ts_ns"].min()]
