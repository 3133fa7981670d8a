"""What the gate says of missing bars is what the audit of the calendar says."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from plusultra_core.clock import NS_PER_DAY, bar_ns
from plusultra_core.data.calendars import audit_gaps, expected_closes
from plusultra_core.data.gate.histories.missing import missing_bars
from plusultra_core.market import MarketConfig

FIRST = 1_420_070_400 * 10**9  # 2015-01-01
LENGTHS = {"equity": "1d", "forex": "1d", "crypto": "1h", "commodity": "1h", "crypto_perpetual": "4h"}


def _holed(market: MarketConfig, seed: int, share: float) -> pl.DataFrame:
    """Bars of three symbols at times of the calendar, of which some are missing, some stand twice and some stand elsewhere."""
    rng = np.random.default_rng(seed)
    closes = expected_closes(market, FIRST, FIRST + 40 * bar_ns(market.bar) + 60 * NS_PER_DAY).to_numpy()
    frames = []
    for symbol in "ABC":
        span = closes[rng.integers(0, 9) : closes.size - rng.integers(0, 9)]
        times = span[rng.random(span.size) >= (0.0 if symbol == "B" else share)]
        odd = rng.choice(times, 3, replace=False) + np.array([1, bar_ns(market.bar) // 3, NS_PER_DAY])
        frames.append(pl.DataFrame({"symbol": symbol, "ts_ns": np.unique([*times, *odd])}))
    return pl.concat(frames)


@pytest.mark.parametrize("share", [0.01, 0.3])
@pytest.mark.parametrize(("asset_class", "bar"), LENGTHS.items())
@pytest.mark.parametrize("seed", [0, 1])
def test_the_gate_counts_as_the_audit_does(asset_class: str, bar: str, seed: int, share: float, markets: dict[str, MarketConfig]) -> None:
    market = replace(markets[asset_class], bar=bar)
    bars = _holed(market, seed, share)
    symbols = bars.group_by("symbol", maintain_order=True).agg(num_bars=pl.len(), step_ns=pl.lit(bar_ns(bar)))
    assets = pl.DataFrame({"symbol": [*"CAB"], "asset_class": asset_class, "bar": bar})
    found = missing_bars(bars, symbols, assets, {asset_class: market}, 0.25)
    audit = audit_gaps(bars, market, 3).filter(pl.col("missing") > 0)
    expected = audit.select("symbol", "missing", of="expected", first=pl.col("missing_days").list.join(" "))
    assert found.equals(expected.sort("symbol")) and found.schema == expected.schema
    assert share < 0.1 or {"A", "C"} <= set(found["symbol"])


def test_symbols_off_the_grid_of_their_class_and_classes_without_a_market_are_not_spoken_of(markets: dict[str, MarketConfig]) -> None:
    market = replace(markets["equity"], bar="1d")
    bars = _holed(market, 0, 0.3)
    symbols = bars.group_by("symbol", maintain_order=True).agg(num_bars=pl.len(), step_ns=pl.lit(NS_PER_DAY))
    assets = pl.DataFrame({"symbol": [*"ABC"], "asset_class": ["equity", "equity", "void"], "bar": ["1d", "1h", "1d"]})
    assert missing_bars(bars, symbols, assets, {"equity": market}, 0.25)["symbol"].to_list() == ["A"]
    slow = symbols.with_columns(step_ns=pl.col("step_ns") * 7)
    assert missing_bars(bars, slow, assets, {"equity": market}, 0.25).is_empty()
