"""Intervals: joint dates, the right block, and the coverage they promise."""

import tracemalloc

import numpy as np
import pytest
from arch.bootstrap import optimal_block_length

from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.evaluation import metrics
from plusultra_core.evaluation.bootstrap import (
    CI_METRICS,
    BootstrapConfig,
    block_length,
    bootstrap_all,
    intervals,
    paired_differences,
    repeated_draws,
    repeated_sharpe,
    resample_indices,
)

CFG = BootstrapConfig(reps=400, confidence=0.95, min_bars=10)


def ar1(rho: float, num: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    noise = random.normal(size=num + 100)
    for t in range(1, noise.size):
        noise[t] += rho * noise[t - 1]
    return noise[100:]


def test_the_same_seed_draws_the_same_dates() -> None:
    assert np.array_equal(resample_indices(60, 5.0, 20, 7), resample_indices(60, 5.0, 20, 7))
    assert not np.array_equal(resample_indices(60, 5.0, 20, 7), resample_indices(60, 5.0, 20, 8))


def test_blocks_have_the_mean_length_that_was_asked_for() -> None:
    index_RT = resample_indices(500, 10.0, 200, 1)
    jumps = (np.diff(index_RT, axis=1) % 500 != 1).mean()
    assert jumps == pytest.approx(1 / 10, rel=0.06)


def test_the_block_is_the_longest_of_the_optimal_ones_and_flat_series_have_no_say() -> None:
    slow, fast = ar1(0.6, 600, 2), ar1(0.0, 600, 3)
    expected = float(optimal_block_length(slow)["stationary"].iloc[0])
    assert block_length([fast, slow, np.zeros(600)]) == pytest.approx(expected)
    assert block_length([np.zeros(600)]) == 1.0


def test_a_strategy_against_itself_differs_by_nothing_in_every_resample() -> None:
    ret_T = ar1(0.2, 200, 4) * 0.01
    index_RT = resample_indices(200, 4.0, 200, 7)
    found = paired_differences(ret_T, ret_T.copy(), index_RT, 252.0, 0.95)
    assert found["sharpe"] == {"difference": 0.0, "ci": (0.0, 0.0), "share_above_zero": 0.0}


def test_dates_are_drawn_jointly_so_that_a_common_shock_cancels() -> None:
    shock = ar1(0.0, 300, 5) * 0.02
    found = paired_differences(shock + 0.001, shock, resample_indices(300, 3.0, 400, 7), 252.0, 0.95)
    low, high = found["sharpe"]["ci"]
    own = intervals(shock, resample_indices(300, 3.0, 400, 7), 252.0, 0.95)["sharpe"]
    assert 0 < low < high
    assert high - low < 0.2 * (own[1] - own[0])


def test_no_trade_can_be_compared_as_zero() -> None:
    ret_T = ar1(0.0, 200, 6) * 0.01 + 0.002
    found = paired_differences(ret_T, np.zeros(200), resample_indices(200, 2.0, 200, 7), 252.0, 0.95)
    assert found["sharpe"]["difference"] == pytest.approx(float(metrics.sharpe(ret_T, 252.0)))


def test_undefined_metrics_and_short_spans_have_no_interval() -> None:
    found, index_RT, _ = bootstrap_all({"flat": np.zeros(50), "live": ar1(0.0, 50, 8) * 0.01}, 252.0, CFG, 7)
    assert found["flat"]["sharpe"] is None and found["live"]["sharpe"] is not None and len(index_RT) == CFG.reps
    short, none, _ = bootstrap_all({"live": np.full(5, 0.01)}, 252.0, CFG, 7)
    assert short == {"live": dict.fromkeys(CI_METRICS)} and len(none) == 0


def test_an_interval_holds_its_metric_and_a_drawdown_stays_below_one() -> None:
    ret_T = ar1(0.1, 300, 9) * 0.05
    index_RT = resample_indices(300, 3.0, 400, 7)
    found = intervals(ret_T, index_RT, 252.0, 0.95)
    low, high = found["sharpe"]
    assert low < float(metrics.sharpe(ret_T, 252.0)) < high
    assert 0 < found["max_drawdown"][0] < found["max_drawdown"][1] <= 1.0


def test_series_of_other_lengths_are_not_paired() -> None:
    with pytest.raises(ContractError, match="cut both to one span"):
        paired_differences(np.ones(3), np.ones(4), resample_indices(3, 1.0, 5, 7), 252.0, 0.95)


@pytest.mark.parametrize(("key", "value"), [("reps", 10), ("confidence", 1.0), ("min_bars", 1)])
def test_a_config_that_makes_no_sense_is_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        BootstrapConfig(**{"reps": 400, "confidence": 0.95, "min_bars": 10, key: value})


def folds_of(seeds: int, spread: float, start: int = 20) -> list[np.ndarray]:
    """Two folds of 150 and 200 bars; seeds share the market of a fold and add `spread` of their own to its mean."""
    own = np.random.default_rng(start).normal(size=(2, seeds, 1)) * spread
    return [0.01 * (ar1(0.0, num, start + fold) + 0.1 + own[fold]) for fold, num in enumerate((150, 200))]


def test_the_sharpe_of_repeated_runs_is_the_mean_over_seeds_of_the_joined_folds() -> None:
    run = folds_of(3, 0.5)
    each = [float(metrics.sharpe(np.concatenate([fold[s] for fold in run]), 252.0)) for s in range(3)]
    assert repeated_sharpe(run, 252.0) == pytest.approx(np.mean(each))
    assert repeated_sharpe([*run[:1], run[1] * 0.0], 252.0) != repeated_sharpe(run, 252.0)
    assert repeated_sharpe([fold * 0.0 for fold in run], 252.0) == 0.0


def test_without_seeds_the_draws_are_those_of_the_dates_alone() -> None:
    run = folds_of(1, 0.0)
    found = repeated_draws({"model": run}, 252.0, CFG, 7)["model"]
    index = [resample_indices(fold.shape[1], block_length([fold[0]]), CFG.reps, 7 + k) for k, fold in enumerate(run)]
    joined = np.concatenate([fold[0][rows] for fold, rows in zip(run, index, strict=True)], axis=1)
    assert found == pytest.approx(metrics.sharpe(joined, 252.0))


def test_seeds_that_differ_widen_the_interval_and_seeds_that_agree_do_not() -> None:
    alike, unlike = (repeated_draws({"model": folds_of(5, spread)}, 252.0, CFG, 7)["model"] for spread in (0.0, 0.5))
    assert alike == pytest.approx(repeated_draws({"model": folds_of(1, 0.0)}, 252.0, CFG, 7)["model"])
    assert np.std(unlike) > 1.3 * np.std(alike)


def test_dates_are_drawn_jointly_for_strategies_with_and_without_seeds() -> None:
    market = folds_of(1, 0.0)
    draws = repeated_draws({"market": market, "better": [np.repeat(fold, 5, axis=0) + 0.001 for fold in market]}, 252.0, CFG, 7)
    assert np.std(draws["better"] - draws["market"]) < 0.2 * np.std(draws["market"])
    again = repeated_draws({"market": market, "better": [np.repeat(fold, 5, axis=0) + 0.001 for fold in market]}, 252.0, CFG, 7)
    assert all(np.array_equal(draws[name], again[name]) for name in draws)


def test_repeated_runs_over_other_bars_are_refused() -> None:
    run = folds_of(1, 0.0)
    with pytest.raises(ContractError, match="expected the same bars a fold"):
        repeated_draws({"a": run, "b": [run[0], run[1][:, 1:]]}, 252.0, CFG, 7)


@pytest.mark.slow
def test_the_interval_of_the_mean_covers_the_truth_on_autocorrelated_returns() -> None:
    """AR(1), rho .3: a 95 % interval of the Sharpe holds the true one in 93 to 97 of 100 worlds."""
    num, worlds, rho, mean = 1500, 400, 0.3, 0.05
    true = mean / np.sqrt(1.0 / (1.0 - rho**2))
    inside = 0
    for world in range(worlds):
        ret_T = (ar1(rho, num, 1000 + world) + mean) * 0.01
        index_RT = resample_indices(num, block_length([ret_T]), 300, world)
        draws = metrics.sharpe(ret_T[index_RT], 1.0)
        low, high = np.quantile(draws, [0.025, 0.975])
        inside += low <= true <= high
    assert 0.93 <= inside / worlds <= 0.97


def test_resamples_are_held_once() -> None:
    tracemalloc.start()
    index = resample_indices(5_000, 10.0, 400, 0)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert index.shape == (400, 5_000) and index.dtype == np.int64
    assert most < 1.2 * index.nbytes


def test_draws_of_many_seeds_are_made_a_part_at_a_time() -> None:
    runs = {"model": [np.random.default_rng(0).normal(0.0, 0.01, (8, 2_000))]}
    cfg = BootstrapConfig(reps=1_024, confidence=0.95, min_bars=20)
    tracemalloc.start()
    assert repeated_draws(runs, 252.0, cfg, 7)["model"].shape == (1_024,)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1_024 * 8 * 2_000 * 8, "every seed of every resample at once"
