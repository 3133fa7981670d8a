"""Seeds of the policy: no contestants, recomputed by hand, counted as luck, and a lucky one is not promoted."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.evaluation.promotion import decide
from plusultra_core.evaluation.scorecard import build_scorecard, trials_of
from plusultra_core.evaluation.seeds.runs import read_seed_runs
from plusultra_core.evaluation.significance import build_significance, counted_sharpes, expected_max_sharpe
from plusultra_core.evaluation.trials import Trial

OTHERS = (-0.25, -1.0, 0.25, -0.5)


def card_of(world: Any, directory: Path, market: Any, cfg: Any) -> dict[str, Any]:
    return build_scorecard(world.write_trace(directory), world.forecasts(), world.regimes(), world.bars(), market, cfg, {"snapshot": "w"})


@pytest.fixture(scope="module")
def one(make_world, market, cfg, tmp_path_factory) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    return card_of(make_world(), tmp_path_factory.mktemp("one"), market, cfg)


@pytest.fixture(scope="module")
def traced(make_world, tmp_path_factory) -> tuple[Any, Path]:  # type: ignore[no-untyped-def]
    """Five seeds, of which three do the contrary of the served one."""
    return make_world(other_seeds=OTHERS), tmp_path_factory.mktemp("five")


@pytest.fixture(scope="module")
def five(traced, market, cfg) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    return card_of(*traced, market, cfg)


def sharpe(equity: np.ndarray, year: float) -> float:
    ret = equity[1:] / equity[:-1] - 1.0
    return float(ret.mean() / ret.std(ddof=1) * np.sqrt(year))


def test_other_seeds_are_no_contestants_and_move_no_number_of_one(one, five) -> None:  # type: ignore[no-untyped-def]
    for name in ("strategies", "models", "paired", "verdict", "walk_forward", "bootstrap", "span"):
        assert five[name] == one[name]
    assert five["series"]["locked"] == one["series"]["locked"]
    assert not [name for name in five["strategies"] if "seed" in name]


def test_the_numbers_are_those_of_the_ledgers_by_hand(five, traced, market) -> None:  # type: ignore[no-untyped-def]
    _, directory = traced
    account = pl.read_parquet(directory / "account.parquet").sort("strategy", "ts_ns")
    found, year = five["policy"]["seeds"], market.periods_per_year
    sharpes, returns, depths = [], [], []
    for run in found["runs"]:
        equity = account.filter(pl.col("strategy") == run["strategy"])["equity"].to_numpy()
        sharpes.append(sharpe(equity, year))
        returns.append(equity[-1] / equity[0] - 1.0)
        depths.append((1.0 - equity / np.maximum.accumulate(equity)).max())
        assert run["sharpe"] == pytest.approx(sharpes[-1], rel=1e-9)
        assert run["sharpe_ci"][0] < run["sharpe"] < run["sharpe_ci"][1]
    assert [run["seed"] for run in found["runs"]] == [7, 8, 9, 10, 11] and found["served"] == 7 and found["num_seeds"] == 5
    for name, values in (("sharpe", sharpes), ("total_return", returns), ("max_drawdown", depths)):
        expected = {"served": values[0], "mean": np.mean(values), "median": np.sort(values)[2], "std": np.std(values),
                    "least": min(values), "most": max(values)}  # fmt: skip
        assert found[name] == pytest.approx(expected, rel=1e-9)
    best = max(five["baselines"], key=lambda name: five["strategies"][name]["metrics"]["sharpe"] or 0.0)
    rival = max(five["strategies"][best]["metrics"]["sharpe"] or 0.0, 0.0)
    assert found["best_baseline"] == best
    assert found["num_above_best_baseline"] == sum(value > rival for value in sharpes)
    ranks = np.argsort(np.argsort(sharpes))
    assert found["rank_correlation"] == pytest.approx(np.corrcoef([4, 3, 2, 1, 0], ranks)[0, 1])
    assert found["sharpe_gap"] == pytest.approx(max(sharpes) - min(sharpes))


def test_the_interval_of_the_served_seed_is_that_of_the_policy(five) -> None:  # type: ignore[no-untyped-def]
    assert five["policy"]["seeds"]["runs"][0]["sharpe_ci"] == five["strategies"]["policy"]["ci"]["sharpe"]


def test_seeds_that_lie_further_apart_than_an_interval_are_said_in_words(five, one) -> None:  # type: ignore[no-untyped-def]
    seeds = five["policy"]["seeds"]
    narrowest = min(high - low for low, high in (run["sharpe_ci"] for run in seeds["runs"]))
    assert seeds["narrowest_interval"] == narrowest and seeds["sharpe_gap"] > narrowest and seeds["apart"]
    assert [text for text in five["warnings"] if "5 trainings of the policy" in text and f"{seeds['sharpe_gap']:.2f} apart" in text]
    assert not one["policy"]["seeds"]["apart"] and not [text for text in one["warnings"] if "trainings" in text]


def test_one_seed_has_a_spread_of_nothing_and_a_trace_without_any_has_none(one, make_world, market, cfg, tmp_path) -> None:  # type: ignore[no-untyped-def]
    alone = one["policy"]["seeds"]
    assert alone["num_seeds"] == 1 and alone["sharpe"]["least"] == alone["sharpe"]["most"] == alone["sharpe"]["served"]
    assert alone["rank_correlation"] is None and alone["sharpe_gap"] == 0.0
    world = make_world()
    trace = world.write_trace(tmp_path)
    (trace / "trace.json").write_text(json.dumps({"strategies": {}}))
    old = build_scorecard(trace, world.forecasts(), world.regimes(), world.bars(), market, cfg, {"snapshot": "w"})
    assert old["policy"] == {"seeds": None} and old["series"]["seeds"] == {}
    assert [trial.strategy for trial in trials_of(old, "c")] == old["models"]


def test_a_lucky_seed_is_not_promoted(five, one, cfg) -> None:  # type: ignore[no-untyped-def]
    """The served seed is to the bit the same in both: what refuses it are its siblings."""
    rule = replace(cfg.promotion, baselines=("no_trade", "buy_and_hold", "random"))
    assert decide(one, None, rule, cfg.bootstrap).promoted
    decision = decide(five, None, rule, cfg.bootstrap)
    found = {check.name: check for check in decision.checks}["median seed's Sharpe minus the best baseline's"]
    rival = max(five["strategies"][name]["metrics"]["sharpe"] or 0.0 for name in rule.baselines)
    assert found.found == pytest.approx(five["policy"]["seeds"]["sharpe"]["median"] - rival) and found.found < 0
    assert not decision.promoted and decision.reason == "not promoted: median seed's Sharpe minus the best baseline's"
    assert decide(five, None, replace(rule, needs_median_seed=False), cfg.bootstrap).promoted


def test_seeds_that_agree_are_promoted(make_world, market, cfg, tmp_path) -> None:  # type: ignore[no-untyped-def]
    card = card_of(make_world(other_seeds=(0.5, 0.8)), tmp_path, market, cfg)
    rule = replace(cfg.promotion, baselines=("no_trade", "buy_and_hold", "random"), min_seeds=3)
    assert decide(card, None, rule, cfg.bootstrap).promoted
    few = decide(card, None, replace(rule, min_seeds=4), cfg.bootstrap)
    assert not few.promoted and few.reason == "not promoted: seeds of the policy"


def test_a_scorecard_that_tells_of_no_seed_fails_and_a_written_rule_is_not_asked(one, cfg) -> None:  # type: ignore[no-untyped-def]
    old = copy.deepcopy(one)
    old["policy"]["seeds"], old["series"]["seeds"] = None, {}
    rule = replace(cfg.promotion, baselines=("no_trade", "buy_and_hold", "random"))
    decision = decide(old, None, rule, cfg.bootstrap)
    assert decision.reason == "not promoted: seeds of the policy; median seed's Sharpe minus the best baseline's"
    other = decide(old, None, replace(rule, strategy="sized_hybrid"), cfg.bootstrap)
    assert not [check.name for check in other.checks if "seed" in check.name]
    with pytest.raises(ConfigError, match="min_seeds"):
        replace(rule, min_seeds=0)


def test_every_profile_asks_for_as_many_seeds_as_it_trains(root) -> None:  # type: ignore[no-untyped-def]
    from plusultra_core.config import read_yaml

    for profile in ("smoke", "base", "gpu24", "h200"):
        asked, trained = (read_yaml(root / "configs" / profile / f"{name}.yaml") for name in ("evaluation", "rl"))
        assert asked["promotion"]["needs_median_seed"] is True and asked["promotion"]["min_seeds"] == trained["num_seeds"]


def test_every_seed_is_a_trial_and_the_deflated_sharpe_is_told(five, one, cfg) -> None:  # type: ignore[no-untyped-def]
    trials, before = trials_of(five, "c"), trials_of(one, "c")
    assert [trial.strategy for trial in trials] == [*five["models"], *(f"policy_seed_{seed}" for seed in (8, 9, 10, 11))]
    assert len({trial.key for trial in trials}) == 8
    judged = [build_significance(five["series"]["locked"]["ret"], five["models"], each, cfg.significance, cfg.bootstrap, 7)
              for each in (trials, before)]  # fmt: skip
    sharpes = [trial.sharpe_per_bar for trial in trials]
    euler, num = 0.5772156649015329, 8
    luck = np.std(sharpes, ddof=1) * ((1 - euler) * norm.ppf(1 - 1 / num) + euler * norm.ppf(1 - 1 / (num * np.e)))
    assert judged[0]["expected_max_sharpe_per_bar"] == pytest.approx(luck)
    assert (judged[0]["num_trials"], judged[0]["num_seed_trials"]) == (8, 4) and judged[1]["num_seed_trials"] == 0
    assert judged[0]["strategies"]["policy"]["dsr"] < judged[1]["strategies"]["policy"]["dsr"]
    assert judged[0]["pbo"] is None  # eight trials, but four ideas
    assert "dsr" in judged[0]["strategies"]["policy"] and "policy_seed_8" not in judged[0]["strategies"]


def trial(strategy: str, value: float | None) -> Trial:
    return Trial(key=strategy, asset_class="equity", snapshot="s", strategy=strategy, config_digest="c", start_ns=0, end_ns=9,
                 num_bars=1, sharpe_per_bar=value, returns=(0.0,))  # fmt: skip


def test_seeds_that_are_alike_make_the_deflated_sharpe_no_laxer() -> None:
    ideas = [trial("sized_linear", -0.2), trial("sized_hybrid", 0.2), trial("policy", 0.1), trial("flat", None)]
    alike = [trial(f"policy_seed_{seed}", 0.1) for seed in range(8, 20)]
    lax = expected_max_sharpe([-0.2, 0.2, 0.1, *[0.1] * 12])
    assert lax < expected_max_sharpe([-0.2, 0.2, 0.1])  # what counting them as others are would say
    assert expected_max_sharpe(counted_sharpes([*ideas, *alike])) == max(
        map(expected_max_sharpe, ([-0.2, 0.2, 0.1], [-0.2, 0.2, 0.1, 0.0]))
    )
    apart = [trial("policy_seed_8", 0.9), trial("policy_seed_9", -0.9)]
    assert expected_max_sharpe(counted_sharpes([*ideas, *apart])) == expected_max_sharpe([-0.2, 0.2, 0.1, 0.9, -0.9])
    assert counted_sharpes([]) == []


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ([("policy", 7)], "expected the runs"),
        ([("policy", 7), ("policy_seed_8", 8), ("policy_seed_8", 8)], "expected the runs"),
        ([("policy", 8), ("policy_seed_8", 8)], "seed 8 stands twice"),
        ([("policy", 7), ("policy_seed_8", 9)], "seed 9 stands twice or is not"),
        ([("policy_seed_8", 8)], "expected the runs"),
        ([("policy", 7), ("policy_seed_8", 8), ("policy_seed_9", 9)], "expected the runs"),
    ],
)
def test_a_trace_that_tells_of_other_seeds_than_it_ran_is_refused(told: list[tuple[str, int]], words: str, tmp_path: Path) -> None:
    known = {"valid_reward": 0.1, "update": 0, "is_flat": False}
    (tmp_path / "trace.json").write_text(json.dumps({"policy_seeds": [{"strategy": name, "seed": seed, **known} for name, seed in told]}))
    with pytest.raises(ContractError, match=words):
        read_seed_runs(tmp_path, ["no_trade", "policy", "policy_seed_8"])


@pytest.mark.parametrize("raw", [{"7": 1}, ["policy"], [{"strategy": "policy"}]])
def test_what_is_no_list_of_seeds_is_refused(raw: Any, tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text(json.dumps({"policy_seeds": raw}))
    with pytest.raises(ContractError, match="policy_seeds"):
        read_seed_runs(tmp_path, ["policy"])
