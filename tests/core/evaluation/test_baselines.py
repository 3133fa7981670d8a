"""The table of baselines: what a fold's policy may see, and that the words follow the numbers."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plusultra_core import config
from plusultra_core.evaluation.scorecard import EvaluationConfig
from plusultra_core.rl.world import spans_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def benchmarks() -> Any:
    """The two scripts as modules."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("baselines"), importlib.import_module("baselines_page")
    sys.path.remove(str(ROOT / "benchmarks"))


def test_a_panel_cut_behind_a_fold_holds_nothing_later(benchmarks: Any, planted: Any) -> None:
    panel = planted(num_assets=4, num_times=260).panel
    end = panel.folds[0].test[1]
    assert end < len(panel.ts_ns_T)
    part = benchmarks[0].cut(panel, 0)
    assert len(part.ts_ns_T) == end and part.folds == panel.folds[:1]
    assert part.label_end_NTK.max() < end <= panel.label_end_NTK[:, :end].max()
    late = panel.label_end_NTK[:, :end] >= end
    assert late.any() and np.isnan(part.y_NTK[late]).all() and (part.direction_NTK[late] == -1).all()
    assert np.array_equal(part.y_NTK[~late], panel.y_NTK[:, :end][~late], equal_nan=True)
    assert np.array_equal(part.x_NTF, panel.x_NTF[:, :end], equal_nan=True)
    assert np.array_equal(part.close_NT, panel.close_NT[:, :end], equal_nan=True)


def test_a_cut_panel_is_the_same_whatever_comes_after(benchmarks: Any, planted: Any) -> None:
    panel = planted(num_assets=4, num_times=260).panel
    end = panel.folds[0].test[1]
    close, x, y = panel.close_NT.copy(), panel.x_NTF.copy(), panel.y_NTK.copy()
    close[:, end:], x[:, end:], y[panel.label_end_NTK >= end] = 7.0, 7.0, 7.0
    poisoned = benchmarks[0].replace(panel, close_NT=close, x_NTF=x, y_NTK=y)
    own, other = benchmarks[0].cut(panel, 0), benchmarks[0].cut(poisoned, 0)
    for name in ("close_NT", "x_NTF", "y_NTK"):
        assert np.array_equal(getattr(own, name), getattr(other, name), equal_nan=True)


def test_the_policy_of_a_fold_trains_before_the_span_that_judges_it(benchmarks: Any, planted: Any) -> None:
    panel = planted(num_assets=4, num_times=260).panel
    for fold in range(1, len(panel.folds)):
        spans = spans_of(benchmarks[0].cut(panel, fold), 0.25)
        assert spans.train[0] == panel.folds[0].test[0]
        assert spans.valid[1] == panel.folds[fold].test[0] - max(panel.horizons)


def result(policy: float, best: float, seeds: int = 5, flat: int = 0) -> dict[str, Any]:
    """Two folds of a class in which the policy and equal weight earn so much a bar, on top of noise that all share but `random`."""
    rng = np.random.default_rng(3)
    folds = []
    for fold, num in ((2, 150), (3, 160)):
        shared = 0.01 * rng.normal(size=num)
        runs = []
        for _ in range(seeds):
            ret = {
                "no_trade": np.zeros(num),
                "buy_and_hold": shared,
                "equal_weight": shared + best,
                "random": 0.01 * rng.normal(size=num),
                "policy": shared + policy + 1e-4 * rng.normal(size=num),
            }
            runs.append(
                {
                    name: {"ret": one.tolist(), "gross": (one + 1e-4).tolist(), "paid": [1e-4] * num, "turnover": [0.1] * num}
                    for name, one in ret.items()
                }
            )
        policies = [{"is_flat": float(seed < flat), "cpu_s": 1.0} for seed in range(seeds)]
        folds.append({"fold": fold, "span": [0, 10**18], "policies": policies, "series": runs})
    facts = {"partition": "equity|tiny", "num_symbols": 3, "bar": "1d", "periods_per_year": 252.0, "profile": "smoke", "seeds": seeds}
    return {**facts, "folds": folds}


@pytest.fixture(scope="module")
def judged() -> EvaluationConfig:
    return config.load(EvaluationConfig, ROOT / "configs" / "smoke" / "evaluation.yaml")


def test_whoever_wins_is_named_and_a_policy_below_is_said_to_be_refused(benchmarks: Any, judged: EvaluationConfig) -> None:
    words = benchmarks[1].Class(result(policy=-0.001, best=0.001, flat=1), judged).words()
    assert words.startswith("**equal_weight** has the highest Sharpe")
    assert "The policy is number 5 of 5" in words and "It lies below `buy_and_hold`, `equal_weight` by more than the interval" in words
    assert "2 of 10 trainings kept the policy that never trades" in words and "The rule of promotion refuses it" in words


def test_a_policy_above_all_is_said_to_hold(benchmarks: Any, judged: EvaluationConfig) -> None:
    one = benchmarks[1].Class(result(policy=0.004, best=0.001), judged)
    assert one.words().startswith("**policy** has the highest Sharpe")
    assert "Every lower end holds" in one.words() and "refuses" not in one.words()
    assert one.table()[2].startswith("| policy |") and all(line.count("|") == 11 for line in one.table())


def test_strategies_without_seeds_must_not_differ_between_them(benchmarks: Any, judged: EvaluationConfig) -> None:
    broken = result(policy=0.0, best=0.0)
    broken["folds"][0]["series"][1]["buy_and_hold"]["ret"][3] += 1e-9
    with pytest.raises(SystemExit, match="buy_and_hold differs between seeds"):
        benchmarks[1].Class(broken, judged)
