"""Outcomes and vetoes: the right order, the right steps, nothing known before its time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from plusultra_core.config import load
from plusultra_core.errors import ArtifactError, ConfigError, ContractError
from plusultra_core.feedback.outcomes import OutcomesConfig, build_vetoes, join_outcomes, read_trace
from plusultra_core.feedback.retrain import build_transitions
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.market import MarketConfig
from plusultra_core.simulation.engine import SimulationConfig, backtest
from plusultra_core.simulation.market import market_arrays

CFG = OutcomesConfig(veto_decisions=("reject", "escalate"), outcome_bars=3)
Publish = Callable[[dict[str, pl.DataFrame]], Path]

SCHEMA = {
    "annotation_id": pl.Int64,
    "trade_id": pl.String,
    "symbol": pl.String,
    "trade_ns": pl.Int64,
    "decision": pl.String,
    "created_ns": pl.Int64,
    "context_window_start_ns": pl.Int64,
    "context_window_end_ns": pl.Int64,
}


def said(*rows: tuple[str, str | None, int, str, int, int | None, int | None]) -> pl.DataFrame:
    return pl.DataFrame([(i + 1, *row) for i, row in enumerate(rows)], schema=SCHEMA, orient="row")


def test_an_annotation_finds_its_order_and_what_the_position_earned(ledger: dict[str, pl.DataFrame], publish_ledger: Publish) -> None:
    annotations = said(
        ("policy:0", "A", 100, "approve", 900, None, None),
        ("policy:3", "B", 200, "reject", 900, None, None),
        ("policy:8", "A", 500, "approve", 900, None, None),
        ("4711", "A", 100, "approve", 900, None, None),
    )
    found = join_outcomes(annotations, read_trace(publish_ledger(ledger)), CFG)
    assert found["annotation_id"].to_list() == [1, 2, 3, 4]
    # A from 100: steps to 200, 300, 400 = 9 - 4 + 6. B from 200: 1.5, then nothing. A from 500: the third step is not there yet.
    assert found["outcome_ccy"].to_list() == [11.0, 1.5, None, None]
    assert found["outcome_ns"].to_list() == [400, 500, None, None]
    assert found["agreed"].to_list() == [True, False, None, None]
    assert found["matched"].to_list() == [True, True, True, False]


def test_a_veto_of_an_order_covers_the_decision_of_its_strategy(ledger: dict[str, pl.DataFrame], publish_ledger: Publish) -> None:
    vetoes = build_vetoes(said(("policy:3", None, 200, "reject", 900, None, None)), read_trace(publish_ledger(ledger)), CFG)
    assert vetoes.rows() == [("policy", "B", 200, 900)]


def test_a_veto_between_two_closes_covers_the_decision_in_force_and_not_the_next(
    ledger: dict[str, pl.DataFrame], publish_ledger: Publish
) -> None:
    trace = read_trace(publish_ledger(ledger))
    vetoes = build_vetoes(said(("4711", "A", 299, "escalate", 900, None, None)), trace, CFG)
    assert vetoes.rows() == [("no_trade", "A", 200, 900), ("policy", "A", 200, 900)]
    assert build_vetoes(said(("4711", "A", 99, "reject", 900, None, None)), trace, CFG).is_empty()


def test_a_window_covers_every_decision_inside_it(ledger: dict[str, pl.DataFrame], publish_ledger: Publish) -> None:
    vetoes = build_vetoes(said(("policy:0", "A", 100, "reject", 900, 150, 400)), read_trace(publish_ledger(ledger)), CFG)
    assert vetoes["decision_ns"].to_list() == [200, 300, 400]


def test_the_last_word_on_a_trade_counts(ledger: dict[str, pl.DataFrame], publish_ledger: Publish) -> None:
    trace = read_trace(publish_ledger(ledger))
    reject, approve = ("policy:0", "A", 100, "reject", 900, None, None), ("policy:0", "A", 100, "approve", 950, None, None)
    assert build_vetoes(said(reject, approve), trace, CFG).is_empty()
    assert len(build_vetoes(said(approve, reject), trace, CFG)) == 1


def test_no_annotations_are_no_vetoes(ledger: dict[str, pl.DataFrame], publish_ledger: Publish) -> None:
    trace = read_trace(publish_ledger(ledger))
    assert build_vetoes(said(), trace, CFG).is_empty()
    assert join_outcomes(said(), trace, CFG).is_empty()


def test_positions_that_do_not_explain_the_account_are_refused(ledger: dict[str, pl.DataFrame], publish_ledger: Publish) -> None:
    cooked = {**ledger, "positions": ledger["positions"].with_columns(fees=pl.col("fees") - 1e-3)}
    with pytest.raises(ContractError, match="4 steps do not explain the change of equity, first policy at 200"):
        read_trace(publish_ledger(cooked))


def test_a_row_twice_and_a_column_missing_are_refused(ledger: dict[str, pl.DataFrame], publish_ledger: Publish) -> None:
    twice = {**ledger, "orders": pl.concat([ledger["orders"], ledger["orders"][:1]])}
    with pytest.raises(ContractError, match=r"orders.parquet: 1 rows repeat a key"):
        read_trace(publish_ledger(twice))


def test_a_missing_column_is_named(ledger: dict[str, pl.DataFrame], publish_ledger: Publish) -> None:
    with pytest.raises(ContractError, match=r"positions.parquet: column 'fees' is missing"):
        read_trace(publish_ledger({**ledger, "positions": ledger["positions"].drop("fees")}))


def test_a_damaged_trace_is_refused(ledger: dict[str, pl.DataFrame], publish_ledger: Publish) -> None:
    path = publish_ledger(ledger)
    (path / "orders.parquet").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"orders.parquet"):
        read_trace(path)


def test_an_unknown_decision_in_the_config_is_refused() -> None:
    with pytest.raises(ConfigError, match="veto_decisions"):
        OutcomesConfig(veto_decisions=("forbid",), outcome_bars=1)


def test_a_ledger_of_the_simulator_balances_as_transitions(planted: Callable[..., Any], root: Path, publish_ledger: Publish) -> None:
    """The real kernel with all its costs, partial fills and guardrails: rewards add up to the change of equity."""
    panel = planted(num_assets=3, num_times=120).panel
    market = load(MarketConfig, root / "configs/markets/equity.yaml")
    cfg = load(SimulationConfig, root / "configs/smoke/simulation.yaml")
    guard = load(GuardrailsConfig, root / "configs/smoke/guardrails.yaml")
    bars = {name: getattr(panel, f"{name}_NT") for name in ("open", "high", "low", "close", "volume", "funding")}
    arrays = market_arrays(panel.ts_ns_T, bars, panel.sigma_NT, panel.tradable_NT, market, cfg.adv_bars, cfg.fallback_sigma)
    targets = np.random.default_rng(0).uniform(-0.3, 0.3, (80, 3)).round(1)
    ledger = backtest(arrays, targets, 30, panel.bar_ns, cfg, market.costs, guard)
    named = {"strategy": pl.lit("random")}
    frames = {
        "account": pl.DataFrame(ledger.account()).with_columns(fold=pl.lit(0), **named),
        "positions": pl.DataFrame(ledger.positions()).with_columns(symbol=pl.col("slot").replace_strict({0: "A", 1: "B", 2: "C"}), **named),
        "orders": pl.DataFrame(ledger.orders()).with_columns(symbol=pl.col("slot").replace_strict({0: "A", 1: "B", 2: "C"}), **named),
    }
    trace = read_trace(publish_ledger(frames))
    rows = build_transitions(trace, build_vetoes(said(), trace, CFG))
    assert rows["reward_ccy"].sum() == pytest.approx(ledger.equity[-1] - ledger.equity[0], rel=1e-9)
    assert len(rows) == 80 * 3
    assert rows["action"].is_finite().all() and rows["reward"].is_finite().all()
    order = trace.orders.filter(pl.col("qty_filled") > 0).row(0, named=True)
    at = order["decision_ns"]
    judged = said((f"random:{order['order_id']}", order["symbol"], at, "reject", at, None, None))
    found = join_outcomes(judged, trace, CFG).row(0, named=True)
    after = rows.filter((pl.col("symbol") == order["symbol"]) & (pl.col("decision_ns") >= at))[: CFG.outcome_bars]
    assert found["outcome_ccy"] == pytest.approx(after["reward_ccy"].sum())
