"""The forex of a real dump through the kernel: quoted spreads are paid, pounds are exchanged, and the books balance."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from plusultra_core import config
from plusultra_core.arrays import Float64Array
from plusultra_core.data.bars import build_bars
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import TABLES, DataConfig, build_table
from plusultra_core.market import MarketConfig
from plusultra_core.simulation.market import BARS, check_market, market_arrays
from plusultra_core.simulation.records import PROXY_ESTIMATE, PROXY_SPREAD, MarketArrays
from plusultra_core.windows.quotes import build_quotes


@pytest.fixture(scope="module")
def forex(root: Path, real_dump: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, ...], Any, Any]:
    """Symbols, times and (N, T) arrays of the class, and its market."""
    markets = {path.stem: config.load(MarketConfig, path) for path in (root / "configs" / "markets").glob("*.yaml")}
    cfg = config.load(DataConfig, root / "configs" / "smoke" / "data.yaml")
    taken = take_snapshot(real_dump("market_2017_a"), tmp_path_factory.mktemp("store"), cfg, markets)
    given = {name: build_table(name, taken.path, "forex", markets, cfg) for name in TABLES}
    rows = build_bars(given["series"], given["assets"], given["corporate_actions"], markets["forex"], cfg.bars)
    quotes = build_quotes(rows, *(given[name] for name in ("assets", "indicators", "side_tables", "exchange_rates")), markets["forex"])
    whole = rows.with_columns(quotes["half_spread_bps"], quotes["depth"], quotes["fx"], funding=pl.lit(0.0))
    symbols, ts_ns = tuple(whole["symbol"].unique().sort()), whole["ts_ns"].unique().sort().to_numpy()
    place = whole["symbol"].replace_strict(dict(zip(symbols, range(len(symbols)), strict=True))), np.searchsorted(ts_ns, whole["ts_ns"])
    arrays = {"ts_ns": ts_ns}
    for name in BARS:
        arrays[name] = np.full((len(symbols), len(ts_ns)), np.nan)
        arrays[name][place[0].to_numpy(), place[1]] = whole[name].cast(pl.Float64).to_numpy()
    return symbols, arrays, markets["forex"]


def market_of(arrays: dict[str, Float64Array], market: MarketConfig) -> MarketArrays:
    bars = {name: arrays[name] for name in BARS}
    here = np.isfinite(bars["close"])
    made = market_arrays(arrays["ts_ns"].astype(np.int64), bars, np.full(here.shape, 0.005), here, market, 20, 0.005)
    check_market(made)
    return made


def test_the_books_of_four_pairs_in_two_currencies_balance(world: Any, forex: Any) -> None:
    symbols, arrays, cfg = forex
    market = market_of(arrays, cfg)
    pound, euro = symbols.index("EURGBP"), symbols.index("EURUSD")
    assert not market.translation[:, euro].any() and np.count_nonzero(market.translation[:, pound]) > 2_000
    rng = np.random.default_rng(1)
    targets = rng.uniform(-0.4, 0.4, (len(market.ts_ns) - 1, len(symbols)))
    targets[rng.random(targets.shape) < 0.9] = np.nan
    ledger = world.run(market, targets, latency_ms=(0.0, 3e7), latency_prob=(0.5, 0.5))
    assert np.abs(ledger.residual()).max() < 1e-9 and not ledger.currency_pnl.any()
    close, rate = arrays["close"][pound], market.close[:, pound] / arrays["close"][pound]
    held = np.roll(ledger.steps.position[:, pound], 1)[1:]
    still = (ledger.steps.fill[1:, pound] == 0) & np.isfinite(close[2:]) & np.isfinite(close[1:-1])
    exchanged = held * np.diff(close)[1:] * rate[2:]
    assert still.sum() > 100 and ledger.steps.price_pnl[1:, pound][still] == pytest.approx(exchanged[still], abs=1e-6)


def test_where_the_dump_quotes_its_spread_is_paid_and_elsewhere_the_config_or_an_estimate(world: Any, forex: Any) -> None:
    symbols, arrays, cfg = forex
    euro, kiwi = symbols.index("EURUSD"), symbols.index("NZDUSD")
    market = market_of(arrays, cfg)
    quoted = arrays["half_spread_bps"][euro]
    here = np.flatnonzero(np.isfinite(quoted))
    assert np.array_equal(market.half_spread_bps[here, euro], quoted[here])
    assert set(market.half_spread_bps[:, kiwi]) == {cfg.costs.half_spread_bps}
    assert (market.proxy[here[1:], euro] & PROXY_SPREAD == 0).all() and (market.proxy[here, kiwi] & PROXY_SPREAD > 0).all()
    guessed = market_of(arrays, replace(cfg, spread=replace(cfg.spread, source="proxy")))
    assert (guessed.proxy[here[-1], kiwi] & PROXY_ESTIMATE) > 0 and np.array_equal(guessed.half_spread_bps[here, euro], quoted[here])
    assert (
        cfg.costs.half_spread_bps <= guessed.half_spread_bps[:, kiwi].min() < guessed.half_spread_bps[:, kiwi].max() <= cfg.spread.cap_bps
    )
