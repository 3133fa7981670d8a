"""A trace adds up to the cent: returns, costs, attribution, fills."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plusultra_core.errors import ArtifactError, ContractError
from plusultra_core.evaluation import backtests

COSTS = backtests.COSTS


@pytest.fixture
def copied(world_trace, tmp_path: Path):  # type: ignore[no-untyped-def]
    """A function that writes the trace anew with one table changed."""

    def change(table: str, edit) -> Path:  # type: ignore[no-untyped-def]
        for name in ("account", "orders", "positions"):
            frame = pl.read_parquet(world_trace[1] / f"{name}.parquet")
            (edit(frame) if name == table else frame).write_parquet(tmp_path / f"{name}.parquet")
        return tmp_path

    return change


def track_of(world_trace, name: str, stitched: bool = False):  # type: ignore[no-untyped-def]
    world, directory = world_trace
    trace = backtests.load_trace(directory)
    rows = backtests.spans(trace)[1 if stitched else 0][name]
    return backtests.track(trace, rows, world.regimes(), 252.0)


def test_returns_are_the_change_of_equity_after_costs(world_trace) -> None:  # type: ignore[no-untyped-def]
    account = pl.read_parquet(world_trace[1] / "account.parquet").filter(pl.col("strategy") == "policy").sort("ts_ns")
    equity = account["equity"].to_numpy()
    assert np.allclose(track_of(world_trace, "policy").ret_T, np.diff(equity) / equity[:-1], rtol=1e-10, atol=1e-15)


def test_the_opening_row_is_no_bar(world_trace) -> None:  # type: ignore[no-untyped-def]
    world, directory = world_trace
    rows = pl.read_parquet(directory / "account.parquet").filter(pl.col("strategy") == "no_trade")
    assert track_of(world_trace, "buy_and_hold").result["fills"]["num_orders"] > 0
    assert track_of(world_trace, "no_trade").ret_T.size == rows.height - 1 == (world.folds == 1).sum() - 1


def test_the_locked_window_is_the_last_fold_and_the_stitched_run_has_all(world_trace) -> None:  # type: ignore[no-untyped-def]
    locked, stitched = backtests.spans(backtests.load_trace(world_trace[1]))
    assert set(locked) == set(world_trace[0].weights())
    assert set(stitched) == {"policy", "sized_hybrid"}
    assert all(rows["fold"].unique().to_list() == [1] for rows in locked.values())
    assert sorted(stitched["policy"]["fold"].unique().to_list()) == [0, 1]


def test_an_account_opened_anew_for_each_fold_is_stitched_by_its_returns(world_trace, copied) -> None:  # type: ignore[no-untyped-def]
    def reopen(account: pl.DataFrame) -> pl.DataFrame:
        run = account.filter(pl.col("strategy") == "policy_walk_forward").sort("ts_ns")
        second = run.filter(pl.col("fold") == 1)
        opened = second.head(1).with_columns(
            pl.col("ts_ns") - 1, pl.lit(50_000.0).alias("equity"), *(pl.lit(0.0).alias(t) for t in backtests.TERMS)
        )
        first_equity = float(run.filter(pl.col("fold") == 0)["equity"][-1])
        moved = second.with_columns(pl.col("equity") - first_equity + 50_000.0)
        return pl.concat([account.filter(pl.col("strategy") != "policy_walk_forward"), run.filter(pl.col("fold") == 0), opened, moved])

    trace = backtests.load_trace(copied("account", reopen))
    rows = backtests.spans(trace)[1]["policy"]
    costs = backtests.waterfall(rows)
    assert rows.height == track_of(world_trace, "policy", stitched=True).ret_T.size
    assert abs(costs["residual_ccy"]) < 1e-6


def test_the_cost_waterfall_has_no_residual(world_trace) -> None:  # type: ignore[no-untyped-def]
    for name in ("policy", "random", "no_trade"):
        costs = track_of(world_trace, name).result["costs"]
        assert sum(costs["terms_ccy"].values()) == pytest.approx(costs["end_equity_ccy"] - costs["start_equity_ccy"], abs=1e-6)
        assert abs(costs["residual_ccy"]) < 1e-6
        assert costs["cost_ccy"] == pytest.approx(-sum(costs["terms_ccy"][term] for term in COSTS))


def test_attribution_by_symbol_regime_and_term_adds_up(world_trace) -> None:  # type: ignore[no-untyped-def]
    result = track_of(world_trace, "policy").result
    net = result["costs"]["net_ccy"]
    for part in (result["attribution"]["by_symbol"], *result["attribution"]["by_regime"].values()):
        assert sum(row["net_ccy"] for row in part) == pytest.approx(net, abs=1e-6)
        assert sum(row["price_pnl_ccy"] - row["cost_ccy"] for row in part) == pytest.approx(net, abs=1e-6)
    assert abs(result["attribution"]["residual_ccy"]) < 1e-6
    assert [row["name"] for row in result["attribution"]["by_symbol"]] == list(world_trace[0].symbols)


def test_the_regime_of_a_bar_is_what_was_known_when_it_began(world_trace) -> None:  # type: ignore[no-untyped-def]
    world, directory = world_trace
    trace = backtests.load_trace(directory)
    rows = backtests.spans(trace)[0]["policy"]
    began = int(rows["began_ns"][0])
    later = world.regimes().with_columns(
        pl.when(pl.col("ts_ns") > began).then(0).otherwise(pl.col("volatility_state")).alias("volatility_state")
    )
    first = trace.positions.filter(pl.col("strategy") == "policy").join(rows.head(1).select("ts_ns", "began_ns"), on="ts_ns")
    found = backtests.attribution(first, rows.head(1), later)["by_regime"]["volatility"]
    state = world.regimes().filter(pl.col("ts_ns") == began)["volatility_state"][0]
    assert [row["name"] for row in found] == [("unknown", "low", "mid", "high")[state]]


def test_turnover_sums_absolute_trades_and_never_nets_a_flip(world_trace) -> None:  # type: ignore[no-untyped-def]
    _world, directory = world_trace
    orders = pl.read_parquet(directory / "orders.parquet").filter(pl.col("strategy") == "sized_hybrid")
    account = pl.read_parquet(directory / "account.parquet").filter(pl.col("strategy") == "sized_hybrid").sort("ts_ns")
    opening = dict(zip(account["ts_ns"].to_list()[1:], account["equity"].to_list()[:-1], strict=True))
    grid = account["ts_ns"].to_list()
    brute = sum(q * p / opening[grid[grid.index(d) + 1]] for q, p, d in orders.select("qty_filled", "price", "decision_ns").iter_rows()) / 2
    found = track_of(world_trace, "sized_hybrid")
    assert found.turnover_T.sum() == pytest.approx(brute, rel=1e-9)
    assert found.turnover_T.mean() > 0.2


def test_a_strategy_that_never_trades_has_no_costs_no_orders_and_null_ratios(world_trace) -> None:  # type: ignore[no-untyped-def]
    result = track_of(world_trace, "no_trade").result
    assert result["metrics"]["sharpe"] is None and result["metrics"]["turnover_year"] == 0.0 and result["metrics"]["exposure_mean"] == 0.0
    assert result["fills"]["num_orders"] == 0 and result["fills"]["fill_ratio_mean"] is None
    assert set(result["costs"]["terms_ccy"].values()) == {0.0}


def test_fill_statistics_count_by_status_and_reason() -> None:
    orders = pl.DataFrame(
        {
            "decision_ns": [1, 2, 3, 99], "arrival_ns": [1_000_001, 3_000_002, 5_000_003, 100], "fill_ns": [5, -1, 7, 101],
            "qty_ordered": [10.0, 4.0, 8.0, 1.0], "qty_filled": [10.0, 0.0, -4.0, 1.0], "price": [2.0, float("nan"), 3.0, 1.0],
            "status": ["filled", "rejected", "partial", "filled"], "reason": ["none", "no_price", "capacity", "none"],
        }
    )  # fmt: skip
    found = backtests.fill_statistics(orders, 0, 10)
    assert found["by_status"] == {"filled": 1, "partial": 1, "rejected": 1} and found["by_reason"]["capacity"] == 1
    assert found["fill_ratio_mean"] == pytest.approx(0.75)  # of the two that were sent
    assert found["num_orders"] == 3 and found["notional_ccy"] == pytest.approx(32.0)
    assert found["latency_ms_median"] == pytest.approx(3.0)


def test_saturated_targets_are_counted_against_the_limit(world_trace) -> None:  # type: ignore[no-untyped-def]
    frac = track_of(world_trace, "policy").result["saturated_frac"]
    positions = pl.read_parquet(world_trace[1] / "positions.parquet").filter(pl.col("strategy") == "policy")
    assert frac == pytest.approx((positions["target_weight"].abs() > 0.2475).mean()) and 0.5 < frac < 1.0
    assert track_of(world_trace, "sized_linear").result["saturated_frac"] == 0.0
    assert track_of(world_trace, "random").result["saturated_frac"] is None


def test_money_from_nowhere_is_refused(copied) -> None:  # type: ignore[no-untyped-def]
    def gift(account: pl.DataFrame) -> pl.DataFrame:
        at = account.filter(pl.col("strategy") == "policy")["ts_ns"].to_list()[5]
        return account.with_columns(
            pl.when((pl.col("strategy") == "policy") & (pl.col("ts_ns") >= at))
            .then(pl.col("equity") + 9975)
            .otherwise(pl.col("equity"))
            .alias("equity")
        )

    with pytest.raises(ContractError, match=r"account policy at .*9975 off"):
        backtests.load_trace(copied("account", gift))


def test_costs_that_are_on_no_symbol_are_refused(world_trace, copied) -> None:  # type: ignore[no-untyped-def]
    cheaper = copied("positions", lambda frame: frame.with_columns(pl.col("fees") * 0.5))
    trace = backtests.load_trace(cheaper)
    with pytest.raises(ContractError, match=r"positions policy.fees: differs from the account"):
        backtests.track(trace, backtests.spans(trace)[0]["policy"], world_trace[0].regimes(), 252.0)


@pytest.mark.parametrize(
    ("table", "edit", "words"),
    [
        ("account", lambda f: f.drop("funding"), "account: missing column 'funding'"),
        ("account", lambda f: pl.concat([f, f.tail(1)]), r"account: keys \(strategy, ts_ns\) repeat"),
        ("account", lambda f: f.head(0), "account: no rows"),
        ("account", lambda f: f.with_columns(pl.lit(float("nan")).alias("equity")), "account.equity: values that are not finite"),
        ("positions", lambda f: pl.concat([f, f.tail(1)]), "positions: keys .* repeat"),
        ("positions", lambda f: f.with_columns(pl.col("ts_ns") + 1), "rows have no account row"),
        ("orders", lambda f: f.drop("price"), "orders: missing column 'price'"),
    ],
)
def test_tables_that_break_the_contract_are_refused(copied, table, edit, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ContractError, match=words):
        backtests.load_trace(copied(table, edit))


def test_strategies_on_other_spans_are_not_compared(copied) -> None:  # type: ignore[no-untyped-def]
    trace = backtests.load_trace(copied("positions", lambda frame: frame))
    shorter = trace.account.filter((pl.col("strategy") != "policy") | (pl.col("ts_ns") < trace.account["ts_ns"].max()))
    with pytest.raises(ContractError, match="run all on one span"):
        backtests.spans(backtests.Trace(shorter, trace.orders, trace.positions, {}))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"account.parquet: expected a file of a trace"):
        backtests.load_trace(tmp_path)


def test_the_order_of_the_first_decision_counts(world_trace) -> None:  # type: ignore[no-untyped-def]
    orders = pl.read_parquet(world_trace[1] / "orders.parquet").filter(pl.col("strategy") == "buy_and_hold")
    assert track_of(world_trace, "buy_and_hold").result["fills"]["num_orders"] == orders.height
