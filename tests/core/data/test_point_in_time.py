"""From a real dump to what was known at a bar: rates, volatility, prices of consumers, funding, open interest, the chain."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.data.gate.timestamps import to_ns
from plusultra_core.data.side_tables import as_of, value_at
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import DataConfig, build_table
from plusultra_core.market import MarketConfig
from plusultra_core.windows.build import bar_funding

Table = Callable[[str, str], pl.DataFrame]
# Sums of what the tables of crypto_2026_a hold, BTC-PERP and XRP-PERP, and BTC-PERP over 12 August 2025, by SQL.
FUNDING = (0.0373362052999983, 0.0336553376999987)
FUNDING_8H = (0.02046193, 0.01228969)
FUNDING_DAY = 0.0003410049


@pytest.fixture(scope="module")
def tables_of(
    real_dump: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> Callable[[str], Table]:
    """Tables of a real dump by name and class, from one snapshot."""

    def of(stem: str) -> Table:
        snapshot = take_snapshot(real_dump(stem), tmp_path_factory.mktemp(stem), data_cfg, markets)
        return lambda name, asset_class: build_table(name, snapshot.path, asset_class, markets, data_cfg)

    return of


@pytest.fixture(scope="module")
def market(tables_of: Callable[[str], Table]) -> Table:
    return tables_of("market_2017_a")


@pytest.fixture(scope="module")
def perpetuals(tables_of: Callable[[str], Table]) -> Table:
    return tables_of("crypto_2026_a")


def _at(series: pl.DataFrame, symbol: str, *times: str) -> pl.DataFrame:
    """Bars of a symbol at these times, as keys of a join; every one must be there."""
    keys = pl.DataFrame({"symbol": [symbol] * len(times), "ts_ns": to_ns(pl.Series(list(times)), "t")})
    found = keys.join(series, on=["symbol", "ts_ns"], maintain_order="left").select("symbol", "ts_ns", "known_ns")
    assert found.height == len(times)
    return found


def test_a_yield_is_known_the_session_after_it_is_fixed(market: Table) -> None:
    keys = _at(
        market("series", "equity"), "AMZN", "2010-01-04 21:00:00", "2010-01-05 21:00:00", "2010-01-06 21:00:00", "2017-06-30 20:00:00"
    )
    side = market("side_tables", "equity")
    assert value_at(keys, side, "macro_rates", "UST_10YEAR.value").to_list() == [None, 3.85, 3.77, 2.39]
    assert value_at(keys, side, "macro_rates", "UST_3MONTH.value", 168 * NS_PER_HOUR).to_list() == [None, 0.08, 0.07, None]  # ends in March


def test_implied_volatility_of_the_index_is_known_to_every_class_after_its_own_close(market: Table) -> None:
    shares = _at(market("series", "equity"), "AMZN", "2010-01-04 21:00:00", "2010-01-05 21:00:00", "2017-06-30 20:00:00")
    assert value_at(shares, market("side_tables", "equity"), "options_implied_vol", "^GSPC.iv_30d").to_list() == [None, 0.2004, 0.1144]
    coin = _at(market("series", "crypto"), "BTC-USD", "2017-06-29 00:00:00", "2017-06-30 00:00:00")
    assert value_at(coin, market("side_tables", "crypto"), "options_implied_vol", "^GSPC.iv_30d").to_list() == [0.1003, 0.1144]


def test_consumer_prices_and_the_credit_rate_count_from_their_day_on(market: Table) -> None:
    days = ("2010-01-29", "2010-02-01", "2010-02-18", "2010-02-19", "2010-02-26", "2010-03-01")
    keys = _at(market("series", "equity"), "AMZN", *(f"{day} 21:00:00" for day in days))
    side = market("side_tables", "equity")
    prices = value_at(keys, side, "macro_calendar", "US_CPI_U_INDEX.actual").to_list()
    assert prices == [216.33, 215.949, 215.949, 215.949, 215.949, 216.687]
    assert value_at(keys, side, "macro_calendar", "US_CPI_U_INDEX.previous").to_list()[-1] == 215.949
    assert value_at(keys, side, "macro_calendar", "US_PRIMARY_CREDIT_RATE.actual").to_list() == [None, None, None, 0.75, 0.75, 0.75]


def test_the_chain_of_a_day_is_known_at_its_end(market: Table) -> None:
    keys = _at(market("series", "crypto"), "BTC-USD", "2017-04-29 00:00:00", "2017-04-30 00:00:00", "2017-06-30 00:00:00")
    rows = market("indicators", "crypto").filter(pl.col("name") == "onchain_hash_rate")
    assert as_of(keys, rows, True)["value"].to_list() == [None, 4488916.0, 4245439.0]


def test_open_interest_bills_and_prices_at_hours_of_a_perpetual(perpetuals: Table) -> None:
    hours = ("2025-08-11 01:00:00", "2025-08-11 21:00:00", "2025-08-11 22:00:00", "2025-09-01 03:00:00", "2025-09-01 04:00:00")
    keys = _at(perpetuals("series", "crypto_perpetual"), "BTC-PERP", *hours)
    side = perpetuals("side_tables", "crypto_perpetual")
    assert value_at(keys, side, "macro_rates", "US_TBILL_3M.value").to_list()[:3] == [None, None, 4.15]
    assert value_at(keys, side, "macro_calendar", "US_CPI_U_INDEX.actual").to_list() == [None] * 4 + [323.048]
    interest = perpetuals("indicators", "crypto_perpetual").filter(pl.col("name") == "open_interest")
    assert as_of(keys, interest, True)["value"].to_list()[0] == 60790.787
    doge = _at(perpetuals("series", "crypto_perpetual"), "DOGE-PERP", "2025-09-01 04:00:00")
    assert as_of(doge, interest, True)["value"].to_list() == [None]  # none of its own, and nobody else's


def test_funding_of_two_venues_is_read_apart_and_paid_once(perpetuals: Table) -> None:
    keys = _at(perpetuals("series", "crypto_perpetual"), "BTC-PERP", "2025-08-11 01:00:00", "2025-08-11 07:00:00", "2025-08-11 08:00:00")
    side = perpetuals("side_tables", "crypto_perpetual")
    assert value_at(keys, side, "funding_rates", "rate").to_list()[0] == 2.06005e-05
    assert value_at(keys, side, "funding_rates_8h", "rate").to_list() == [None, None, 0.0001]
    grid = np.unique(perpetuals("series", "crypto_perpetual")["ts_ns"].to_numpy())
    hourly = bar_funding(side, ["BTC-PERP", "XRP-PERP"], grid, NS_PER_HOUR)
    np.testing.assert_allclose(hourly.sum(axis=1), FUNDING, rtol=1e-9)
    assert np.count_nonzero(hourly[0]) > 3300
    daily = bar_funding(side, ["BTC-PERP"], grid[(grid // NS_PER_HOUR) % 24 == 0], 24 * NS_PER_HOUR)[0]
    assert daily[1] == pytest.approx(FUNDING_DAY, rel=1e-9) and daily.sum() == pytest.approx(FUNDING[0], rel=1e-9)
    eight = bar_funding(side.filter(pl.col("table") != "funding_rates"), ["BTC-PERP", "XRP-PERP"], grid, NS_PER_HOUR)
    np.testing.assert_allclose(eight.sum(axis=1), FUNDING_8H, rtol=1e-9)
    paid = grid[np.flatnonzero(eight[0])] // NS_PER_HOUR % 24
    assert set(paid.tolist()) == {0, 8, 16}
