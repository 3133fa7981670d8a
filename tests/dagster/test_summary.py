"""What is shown of results: small tables, words, lines, and few numbers under names that last."""

import json

import dagster as dg
import polars as pl
import pytest

from plusultra_dagster.assets import summary
from plusultra_dagster.assets.record import describe
from plusultra_dagster.assets.schema import schema_of

METRICS = {"sharpe": 1.25, "cagr": 0.1, "max_drawdown": 0.2, "turnover_year": 3.0, "ulcer": 0.01}
CARD = {
    "bar": "1d",
    "span": {"start": "2016-12-05T00:00:00Z", "end": "2016-12-31T00:00:00Z", "num_bars": 3},
    "bootstrap": {"confidence": 0.95},
    "strategies": {
        "policy": {"metrics": METRICS, "ci": {"sharpe": [-0.5, 2.0]}},
        "no_trade": {"metrics": {**METRICS, "sharpe": None, "total_return": 0.0}, "ci": {"sharpe": None}},
    },
    "models": ["policy"],
    "baselines": ["no_trade"],
    "forecasts": {"hybrid": {"1": {"ic": 0.02, "ic_ci": [-0.1, 0.2], "skill_vs_climatology": None, "skill_vs_ewma": 0.01, "ece": 0.1}}},
    "series": {"locked": {"ret": {"policy": [0.1, -0.1, 0.2], "no_trade": [0.0, 0.0, 0.0]}}},
    "policy": {"seeds": None},
    "verdict": {"outcome": "unknown", "best_model": "policy", "best_baseline": None, "sharpe": None},
    "warnings": ["short"],
}


def cells(value: object) -> list[dict[str, object]]:
    assert isinstance(value, dg.TableMetadataValue)
    return [dict(record.data) for record in value.records]


def plotted(found: dict[str, object]) -> dict[str, float]:
    return {name: value for name, value in found.items() if isinstance(value, float)}


def test_a_scorecard_begins_with_its_strategies_and_ends_with_the_numbers_one_plots() -> None:
    found = summary.scorecard(CARD)
    assert list(found)[:3] == ["strategies", "verdict", "equity of the best model"]
    first, second = cells(found["strategies"])
    assert first == {
        "strategy": "policy",
        "Sharpe": "1.25",
        "95 % CI": "-0.50 .. 2.00",
        "CAGR": "0.1",
        "max drawdown": "0.2",
        "turnover a year": "3",
    }
    assert (second["Sharpe"], second["95 % CI"]) == ("-", "-")
    assert "Nothing can be concluded" in str(found["verdict"].value)
    assert set(plotted(found)) == {
        *(f"policy.metrics.{name}" for name in ("sharpe", "cagr", "max_drawdown", "turnover_year")),
        *(f"no_trade.metrics.{name}" for name in ("cagr", "max_drawdown", "turnover_year")),
        "forecasts.hybrid.1.ic",
        "forecasts.hybrid.1.skill_vs_ewma",
    }


def test_stress_is_a_table_of_families_and_the_worst_of_each_strategy() -> None:
    metrics = {
        "calm.policy.median": 0.1, "calm.policy.q05": 0.1, "calm.policy.worst": 0.1, "calm.policy.liquidated": 0.0,
        "crash.policy.median": -0.1, "crash.policy.q05": -0.2, "crash.policy.worst": -0.3, "crash.policy.liquidated": 0.5,
        "capacity.policy.x0.1": 1.0, "capacity.policy.x1": 0.5,
    }  # fmt: skip
    found = summary.station("stress", metrics, [])
    assert cells(found["median returns"]) == [{"family": "calm", "policy": "0.1"}, {"family": "crash", "policy": "-0.1"}]
    assert cells(found["5 % quantile of returns"])[1] == {"family": "crash", "policy": "-0.2"}
    assert "net Sharpe of the policy by capital" in found
    assert plotted(found) == {"worst.policy.return": -0.3, "worst.policy.liquidated": 0.5}


def test_a_policy_shows_its_reward_and_its_kl() -> None:
    history = [{"update": 0.0, "valid_reward": 0.0}, *({"update": float(i), "reward_mean": i / 9, "approx_kl": 0.01} for i in range(1, 40))]
    found = summary.station("policy", {"valid_reward": 0.5}, history)
    assert {"curve of reward_mean", "curve of valid_reward", "curve of approx_kl"} <= set(found)
    updates = cells(found["updates"])
    assert len(updates) <= 13
    assert (updates[0]["update"], updates[-1]["update"]) == ("0", "39")


def test_forecasts_show_each_fold_and_plot_the_mean() -> None:
    found = summary.station("forecast", {"fold_0.hybrid.ic_h1": 0.1, "fold_1.hybrid.ic_h1": 0.3}, [])
    assert [row["fold and model"] for row in cells(found["folds"])] == ["fold_0.hybrid", "fold_1.hybrid"]
    assert plotted(found) == {"hybrid.ic_h1": pytest.approx(0.2)}


def test_a_trace_shows_money_and_what_it_cost() -> None:
    metrics = {"policy.return": 0.1, "policy.max_drawdown": 0.2, "policy.fees_ccy": 3.0, "policy.spread_ccy": 4.0, "policy.gross_mean": 1.0}
    found = summary.station("trace", metrics, [])
    assert cells(found["strategies"])[0]["costs_ccy"] == "7"
    assert plotted(found) == {"policy.return": 0.1, "policy.max_drawdown": 0.2}


def test_a_policy_shows_the_stages_of_its_curriculum() -> None:
    easy = {"stage_episode_bars": 8.0, "window_bars": 4.0, "gamma": 0.5, "cost_factor": 0.0}
    whole = {"stage_episode_bars": 64.0, "window_bars": 0.0, "gamma": 0.95, "cost_factor": 1.0}
    history = [{"update": 0.0}] + [
        {"update": float(u), "reward_mean": float(u), "stage": float(stage), **of}
        for u, stage, of in ((1, 0, easy), (2, 0, easy), (3, 1, whole))
    ]
    rows = cells(summary.station("policy", {}, history)["curriculum"])
    assert [(row["stage"], row["first_update"], row["last_update"], row["cost_factor"]) for row in rows] == [
        ("0", "1", "2", "0"),
        ("1", "3", "3", "1"),
    ]
    assert summary.station("policy", {}, [{"update": 0.0}])["curriculum"] == "nothing"


def test_what_no_number_is_is_not_plotted() -> None:
    assert summary.finite({"a": None, "b": float("nan"), "c": float("inf"), "d": 1}) == {"d": 1.0}
    assert json.dumps(summary.table([])) == '"nothing"'


def test_a_column_says_what_it_means_and_what_may_stand_there() -> None:
    frame = pl.DataFrame({"symbol": ["A"], "ts_ns": [1], "known_ns": [1], "volatility_state": [0], "other": [1.0]})
    columns = {column.name: column for column in schema_of("regimes", frame, {"other": "Mine. Unit: sigma."}).columns}
    assert columns["other"].description == "Mine. Unit: sigma."
    assert "fitted on the past only" in str(columns["volatility_state"].description)
    assert columns["volatility_state"].constraints.other == ["one of 0, 1, 2, 3"]
    assert not columns["symbol"].constraints.nullable
    assert columns["other"].constraints.nullable


def test_execution_shows_every_strategy_and_plots_what_orders_lost() -> None:
    row = {"num_orders": 3, "num_refused": 1, "fill_ratio": 0.5, "shortfall": 12.5, "bps": 4.25, "latency_ms_median": 250.0}
    idle = {**dict.fromkeys(row, 0), "fill_ratio": None, "bps": None, "latency_ms_median": None}
    frame = pl.DataFrame([{"strategy": name, **of, "time_in_market": 1.0} for name, of in (("policy", row), ("no_trade", idle))])
    found = summary.execution(frame)
    assert [record["shortfall_bps"] for record in cells(found["strategies"])] == ["4.25", "-"]
    assert plotted(found) == {"policy.shortfall_bps": 4.25, "policy.fill_ratio": 0.5}


@pytest.mark.parametrize("pbo", [None, {"pbo": 0.25, "num_splits": 70, "prob_loss": 0.5}])
def test_the_probability_of_overfitting_is_plotted_once_there_are_trials_enough(pbo: dict[str, float] | None) -> None:
    entry = {"psr": 0.9, "dsr": None, "num_bars": 100, "min_track_record_bars": None}
    found = summary.significance({"strategies": {"policy": entry}, "num_trials": 3, "pbo": pbo})
    assert plotted(found) == {"strategies.policy.psr": 0.9, **({} if pbo is None else {"pbo": 0.25})}


def test_an_offline_policy_shows_its_candidates_and_what_the_rules_earned() -> None:
    scores = {f"{name}.{key}": 0.5 for name in ("flat", "cloned", "implicit") for key in ("valid_reward", "estimate")}
    found = summary.station("offline", {**scores, "behaviour.reward": 0.1}, [{"step": 1.0, "clone_loss": 2.0}])
    assert [row["policy"] for row in cells(found["candidates"])] == ["cloned", "flat", "implicit"]
    assert plotted(found)["behaviour.reward"] == 0.1


def test_a_table_of_symbols_says_how_many_it_leaves_out() -> None:
    num_symbols, bars = 30, 3
    names = [f"S{i:02d}" for i in range(num_symbols) for _ in range(bars)]
    frame = pl.DataFrame({"symbol": names, "ts_ns": [10**18 + k for _ in range(num_symbols) for k in range(bars)]})
    shown = cells(describe(frame)["by symbol"])
    assert shown[-1]["symbol"] == f"{num_symbols - len(shown) + 1} more" and len(shown) < num_symbols
    assert sum(int(str(row["rows"])) for row in shown) == len(frame)
    assert [row["symbol"] for row in cells(describe(frame.head(bars))["by symbol"])] == ["S00"]
