"""The trace: every strategy through the one kernel on one span, causal, canonical, and read by the judges."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plusultra_core.artifacts import Artifact
from plusultra_core.errors import ArtifactError, JobError
from plusultra_core.evaluation.backtests import load_trace, spans
from plusultra_core.inference.strategies import buy_and_hold, no_trade, random_like, read_quantiles, run_strategy, sized, unguarded
from plusultra_core.inference.trace import Stage, open_stage, traded_horizon
from plusultra_core.job import Job

RULES = {"buy_and_hold", "equal_weight", "sized_linear", "sized_hybrid", "mean_variance"}
LOCKED = {"no_trade", "random", "policy"} | RULES
COSTS = ("spread", "impact", "latency_drift", "fees", "funding", "borrow")


@pytest.fixture(scope="module")
def trace(chain: Any) -> Artifact:
    return chain.run("trace")


@pytest.fixture(scope="module")
def stage(chain: Any) -> Stage:
    return open_stage(Job("trace", "x", chain.settings(), chain.paths, chain.base, chain.base, {}))


def test_every_strategy_runs_over_the_same_bars_and_the_models_over_the_walk_forward(trace: Artifact) -> None:
    locked, stitched = spans(load_trace(trace.path))
    assert set(locked) == LOCKED
    assert set(stitched) == RULES
    assert all(rows["fold"].n_unique() == 2 for rows in stitched.values())


def test_the_account_adds_up_and_positions_and_orders_name_their_symbols(trace: Artifact, chain: Any) -> None:
    account = pq.read_table(trace.path / "account.parquet").to_pydict()
    by_name: dict[str, list[int]] = {}
    for row, name in enumerate(account["strategy"]):
        by_name.setdefault(name, []).append(row)
    for rows in by_name.values():
        equity = np.array(account["equity"])[rows]
        explained = np.array(account["price_pnl"])[rows] - sum(np.array(account[name])[rows] for name in COSTS)
        assert np.allclose(np.diff(equity), explained[1:], rtol=0, atol=1e-9 * 1e6)
    for table in ("orders", "positions"):
        assert set(pq.read_table(trace.path / f"{table}.parquet")["symbol"].to_pylist()) <= set(chain.panel.symbols)


def test_orders_end_in_words_and_never_fill_before_they_arrive(trace: Artifact) -> None:
    orders = pq.read_table(trace.path / "orders.parquet").to_pydict()
    assert set(orders["status"]) <= {"filled", "partial", "carried", "cancelled", "rejected"}
    assert set(orders["side"]) <= {"buy", "sell"}
    for decided, arrived, filled in zip(orders["decision_ns"], orders["arrival_ns"], orders["fill_ns"], strict=True):
        assert arrived >= decided
        assert filled is None or filled >= arrived


def test_a_cash_account_stays_and_a_bought_one_trades_once_an_asset(trace: Artifact, chain: Any) -> None:
    facts = json.loads((trace.path / "trace.json").read_text())["strategies"]
    assert facts["no_trade"]["numbers"]["return"] == 0.0
    assert facts["buy_and_hold"]["numbers"]["num_orders"] == len(chain.panel.symbols)
    assert 0.0 <= facts["policy"]["numbers"]["saturated_frac"] <= 1.0
    assert all(entry["numbers"]["residual_max"] < 1e-9 for entry in facts.values())


def test_equal_jobs_give_equal_bytes(trace: Artifact, chain: Any) -> None:
    assert chain.run("trace", place="again").manifest["files"] == trace.manifest["files"]


def test_other_forecasts_move_every_number_of_their_strategy_and_of_no_other(stage: Stage) -> None:
    values = stage.quantiles["hybrid"]
    other = values[np.random.default_rng(0).permutation(len(values))]
    rules = [sized(q, stage.first, traded_horizon(stage), stage.setting.guard, stage.cfg.sizing) for q in (values, other)]
    a, b = (run_strategy(stage.setting, stage.locked, rule) for rule in rules)
    assert a.equity[-1] != b.equity[-1]
    assert not np.array_equal(a.steps.fill, b.steps.fill)


def test_forecasts_of_the_future_do_not_reach_back(stage: Stage) -> None:
    values = stage.quantiles["hybrid"].copy()
    cut = stage.locked[0] + 9
    values[cut - stage.first :] = np.random.default_rng(0).normal(size=values[cut - stage.first :].shape)
    decide = [
        sized(q, stage.first, traded_horizon(stage), stage.setting.guard, stage.cfg.sizing) for q in (stage.quantiles["hybrid"], values)
    ]
    a, b = (run_strategy(stage.setting, stage.locked, rule) for rule in decide)
    assert np.array_equal(a.equity[:10], b.equity[:10])
    assert not np.array_equal(a.equity, b.equity)


def test_buy_and_hold_is_the_mean_of_its_assets_less_its_costs(stage: Stage) -> None:
    setting, span = stage.setting, stage.locked
    ledger = run_strategy(unguarded(setting), span, buy_and_hold(setting, span))
    close = setting.market.close
    gain = np.nanmean(close[span[1] - 1] / close[span[0]]) - 1.0
    paid = sum(getattr(ledger.steps, name).sum() for name in ("spread", "impact", "fees"))
    assert ledger.equity[-1] / 1e6 - 1 == pytest.approx(gain - paid / 1e6, abs=2e-3)


def test_random_trades_about_as_much_as_the_model_it_stands_beside(stage: Stage) -> None:
    setting, span = stage.setting, (stage.first, stage.locked[1])
    model = run_strategy(
        setting, span, sized(stage.quantiles["hybrid"], stage.first, traded_horizon(stage), setting.guard, stage.cfg.sizing)
    )
    present = np.isfinite(stage.quantiles["hybrid"][:, :, 0])
    runs = [run_strategy(setting, span, random_like(model, present, span[0], seed, shorts=True)) for seed in range(8)]
    turnover = np.mean([run.account()["turnover"][1:].mean() for run in runs])
    assert turnover == pytest.approx(model.account()["turnover"][1:].mean(), rel=0.6)
    assert len({float(run.equity[-1]) for run in runs}) == 8


def test_doing_nothing_costs_nothing(stage: Stage) -> None:
    assert set(run_strategy(stage.setting, stage.locked, no_trade).equity) == {1e6}


def test_a_table_of_forecasts_that_is_none_or_says_two_things_is_refused(chain: Any, tmp_path: Path) -> None:
    table, path = pq.read_table(chain.paths["forecasts"] / "forecasts.parquet"), tmp_path / "forecasts.parquet"
    model, horizon = table["model"][0].as_py(), chain.panel.horizons.index(table["horizon"][0].as_py())
    path.write_bytes(b"no table")
    with pytest.raises(ArtifactError, match="not a table of forecasts"):
        read_quantiles(path, chain.panel, model, (0, 10), horizon)
    pq.write_table(table.drop_columns(["q_05"]), path)
    with pytest.raises(ArtifactError, match=r"not a table of forecasts .*q_05"):
        read_quantiles(path, chain.panel, model, (0, 10), horizon)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    with pytest.raises(ArtifactError, match="1 forecasts of one symbol and time stand twice"):
        read_quantiles(path, chain.panel, model, (0, 10), horizon)


def test_the_terms_of_another_class_are_refused(chain: Any) -> None:
    settings = chain.settings()
    settings["market"] = {**settings["market"], "asset_class": "etf"}
    with pytest.raises(ArtifactError, match="expected the market of equity, found that of etf"):
        open_stage(Job("trace", "x", settings, chain.paths, chain.base, chain.base, {}))


def test_forecasts_of_another_panel_and_missing_inputs_are_refused(chain: Any) -> None:
    table = chain.paths["forecasts"] / "forecasts.parquet"
    with pytest.raises(ArtifactError, match="no forecasts of model 'other'"):
        read_quantiles(table, chain.panel, "other", (0, 10), 0)
    with pytest.raises(ArtifactError, match="horizon_index"):
        read_quantiles(table, chain.panel, "hybrid", (0, 10), 9)
    with pytest.raises(JobError, match="input 'forecasts' is missing"):
        some = {name: chain.paths[name] for name in ("windows", "policy")}
        open_stage(Job("trace", "x", chain.settings(), some, chain.base, chain.base, {}))
