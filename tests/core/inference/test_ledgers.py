"""The tables of a trace: what an order lost against its decision, in parts that leave nothing over."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.inference.ledgers import Tables, arrival_price, flags, ledger_tables, market_table, write_ledger
from plusultra_core.inference.strategies import Setting, no_trade, run_strategy
from plusultra_core.simulation.engine import backtest
from plusultra_core.simulation.ledger import Ledger
from plusultra_core.simulation.liquidity.currency import in_account
from plusultra_core.simulation.market import foreign_terms
from plusultra_core.simulation.records import PROXY_OPEN, PROXY_VOLUME

WIDE = GuardrailsConfig(
    max_weight=0.6, max_gross=3.0, max_net=3.0, max_participation=1e9, reduce_drawdown=1.0, resume_drawdown=1.0, halt_drawdown=1.0
)
LATENCIES = ((0.0,), (50.0, 250.0), (3.6e6, 1.3e8))
PARTS = ("delay", "waiting", "spread", "impact", "fees", "opportunity")


def rough(setting: Setting, seed: int, settlement: str = "home", **changes: Any) -> Setting:
    """The chain's market with bars that lack their open or their volume, thin enough that orders stay open, perhaps quoted abroad."""
    rng, market = np.random.default_rng(seed), setting.market
    shape = market.close.shape
    opened = np.where(rng.random(shape) < 0.1, np.nan, market.open)
    volume = np.where(rng.random(shape) < 0.1, 0.0, market.volume * rng.choice([1e-4, 1e-2, 1.0], shape))
    latency = changes.pop("latency_ms", (0.0,))
    cfg = replace(setting.simulation, latency_ms=latency, latency_prob=(1.0 / len(latency),) * len(latency), seed=seed, **changes)
    market = market._replace(open=opened, volume=volume)
    if settlement != "home":
        rate = np.where(market.tradable, np.exp(np.cumsum(rng.normal(0, 0.01, shape), axis=0)), np.nan)
        money = in_account(market.open, market.high, market.low, market.close, rate, settlement == "margin")
        prices = {name: getattr(money, name) for name in ("open", "high", "low", "close")}
        market = market._replace(**prices, **foreign_terms(money.translation, np.zeros(shape[1]), settlement == "margin"))
    costs = replace(setting.costs, margin=replace(setting.costs.margin, max_leverage=2.5, maintenance_margin=0.1))
    return setting._replace(market=market, simulation=cfg, costs=costs, guard=WIDE)


def traded(setting: Setting, seed: int, num_bars: int = 60) -> Ledger:
    rng = np.random.default_rng(seed)
    shape = (num_bars, setting.market.close.shape[1])
    targets = np.where(rng.random(shape) < 0.4, rng.normal(0, 0.4, shape), np.nan)
    return backtest(setting.market, targets, 90, setting.bar_ns, setting.simulation, setting.costs, setting.guard)


def tables_of(ledger: Ledger, chain: Any, setting: Setting) -> Tables:
    return ledger_tables({"policy": ledger}, chain.panel, setting)


@given(
    seed=st.integers(0, 10_000),
    order_type=st.sampled_from(["market", "limit"]),
    time_in_force=st.sampled_from(["bar", "day", "gtc", "ioc"]),
    latency=st.sampled_from(LATENCIES),
    permanent=st.sampled_from([0.0, 0.5]),
    settlement=st.sampled_from(["home", "cash", "margin"]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_shortfall_of_an_order_is_the_paper_account_less_the_real_one(
    chain: Any, seed: int, order_type: str, time_in_force: str, latency: tuple[float, ...], permanent: float, settlement: str
) -> None:
    setting = rough(chain.setting(), seed, order_type=order_type, time_in_force=time_in_force, latency_ms=latency, permanent_coef=permanent)
    tables = tables_of(traded(setting, seed), chain, setting)
    (orders,), (lived,) = tables["orders"], tables["executions"]
    assert len(orders["order_id"]) > 20
    translation = np.where(setting.market.margined, setting.market.translation, 0.0)
    close = {symbol: slot for slot, symbol in enumerate(chain.panel.symbols)}
    for i in range(len(orders["order_id"])):
        side = 1.0 if orders["side"][i] == "buy" else -1.0
        rows = lived["order_id"] == orders["order_id"][i]
        decided, ended = orders["decision_price"][i], orders["end_price"][i]
        t = int(np.searchsorted(setting.market.ts_ns, orders["decision_ns"][i]))
        past = setting.market.close[: t + 1, close[orders["symbol"][i]]]
        assert decided == past[np.isfinite(past)][-1]
        if orders["qty_ordered"][i] == 0:
            continue
        moved = translation[:, close[orders["symbol"][i]]]
        until = np.searchsorted(setting.market.ts_ns, orders["end_ns"][i])
        paper = side * orders["qty_ordered"][i] * (ended - decided - moved[t + 1 : until + 1].sum())
        real = -lived["fees"][rows].sum()
        for quantity, price, ns in zip(lived["qty_filled"][rows], lived["price"][rows], lived["ts_ns"][rows], strict=True):
            after = moved[np.searchsorted(setting.market.ts_ns, ns) + 1 : until + 1].sum()
            real += side * quantity * (ended - after - price) if quantity else 0.0
        size = orders["qty_ordered"][i] * decided
        assert sum(orders[name][i] for name in PARTS) == pytest.approx(paper - real, abs=1e-9 * size)
        for name in ("delay", "waiting", "spread", "impact", "fees"):
            assert lived[name][rows].sum() == pytest.approx(orders[name][i], abs=1e-9 * size)


def test_a_market_order_that_fills_where_it_arrives_waits_for_nothing(chain: Any) -> None:
    setting = rough(chain.setting(), 3, order_type="market", time_in_force="bar", latency_ms=(0.0, 3.6e6, 4.0e7))
    (lived,) = tables_of(traded(setting, 3), chain, setting)["executions"]
    size = lived["qty_filled"] * np.nan_to_num(lived["reference"])
    assert (size > 0).sum() > 50
    assert (np.abs(lived["waiting"]) <= 1e-9 * size).all()
    assert (np.abs(lived["delay"])[size > 0] > 0).any()


def test_an_order_that_arrives_where_nothing_trades_is_met_at_the_last_close(chain: Any) -> None:
    setting = chain.setting()
    market = setting.market
    one = np.ones(1, np.int64)
    bar, price = arrival_price(setting, market.ts_ns[140:141] + 5, 140 * one, one)
    assert bar.tolist() == [141] and not market.tradable[141, 1]
    assert price.tolist() == [market.close[139, 1]]
    bar, price = arrival_price(setting, market.ts_ns[100:101], 100 * one, one)
    assert bar.tolist() == [101] and price.tolist() == [market.open[101, 1]]


def test_an_order_that_ends_before_it_arrives_has_no_price_of_arrival(chain: Any) -> None:
    setting = rough(chain.setting(), 5, time_in_force="gtc", latency_ms=(1e12,))
    (orders,) = tables_of(traded(setting, 5), chain, setting)["orders"]
    assert len(orders["order_id"]) and np.isnan(orders["arrival_price"]).all()
    assert not orders["delay"].any() and orders["opportunity"].any()


def test_tables_are_sorted_typed_and_parted_by_strategy(chain: Any, tmp_path: Path) -> None:
    setting = rough(chain.setting(), 1, time_in_force="gtc")
    calm = run_strategy(setting, (90, 151), no_trade)
    ledgers = {"policy": traded(setting, 1), "no_trade": calm, "random": traded(setting, 2)}
    fields = write_ledger(tmp_path, ledger_tables(ledgers, chain.panel, setting))
    assert {path.parent.name for path in (tmp_path / "executions").glob("*/*.parquet")} == {f"strategy={name}" for name in ledgers}
    lived = pl.read_parquet(tmp_path / "executions", hive_partitioning=True)
    assert set(lived.columns) == set(fields["executions"]) and set(lived["strategy"]) == {"policy", "random"}
    empty = pl.read_parquet(tmp_path / "executions" / "strategy=no_trade" / "part.parquet")
    assert empty.is_empty() and empty.schema == lived.drop("strategy").schema
    for name, key in (("account", "ts_ns"), ("positions", "ts_ns"), ("orders", "order_id")):
        file = pq.ParquetFile(tmp_path / f"{name}.parquet")
        frame = pl.read_parquet(tmp_path / f"{name}.parquet")
        assert frame.equals(frame.sort("strategy", key, maintain_order=True))
        groups = [file.read_row_group(i, columns=["strategy"])["strategy"].unique().to_pylist() for i in range(file.num_row_groups)]
        assert all(len(group) <= 1 for group in groups)
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    orders = pl.read_parquet(tmp_path / "orders.parquet")
    assert orders.filter(pl.col("price").is_null() != (pl.col("qty_filled") == 0)).is_empty()
    assert not any(frame.select(pl.col(pl.Float64).is_nan().any()).row(0).count(True) for frame in (orders, lived))
    positions = pl.read_parquet(tmp_path / "positions.parquet")
    assert positions["target_weight"].is_nan().any() and not positions.null_count().sum_horizontal()[0]


def test_the_bars_that_the_kernel_met_are_kept_with_what_was_assumed_of_them(chain: Any) -> None:
    setting = rough(chain.setting(), 1)
    market, span = setting.market, (100, 150)
    table = market_table(setting, chain.panel, span)
    assert len(table["ts_ns"]) == market.tradable[100:150].sum()
    one = np.array(table["symbol"]) == chain.panel.symbols[1]
    assert table["ts_ns"][one].tolist() == market.ts_ns[100:150][market.tradable[100:150, 1]].tolist()
    assert np.array_equal(table["open"][one], market.open[100:150, 1][market.tradable[100:150, 1]], equal_nan=True)
    assert set(table["proxy"]) <= {"", *flags(np.unique(market.proxy)).tolist()}


def test_what_was_assumed_is_named() -> None:
    assert flags(np.array([0, PROXY_VOLUME, PROXY_VOLUME | PROXY_OPEN, 0], np.int8)).tolist() == ["", "volume", "open,volume", ""]
    assert flags(np.zeros(0, np.int8)).tolist() == []
