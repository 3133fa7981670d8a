"""Tests against luck, themselves tested: hand formulas, peers, size under the null, power under an edge."""

from dataclasses import replace

import numpy as np
import pytest
from purgedcv import min_track_record_length, probability_of_backtest_overfitting
from scipy.stats import kurtosis, norm, skew
from skfolio.measures import deflated_sharpe_ratio, expected_max_sharpe_ratio, probabilistic_sharpe_ratio

from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.evaluation import significance
from plusultra_core.evaluation.bootstrap import BootstrapConfig
from plusultra_core.evaluation.significance import SignificanceConfig, build_significance
from plusultra_core.evaluation.trials import Trial, sharpe_per_bar

RANDOM = np.random.default_rng(17)
RETURNS = RANDOM.standard_t(5, size=400) * 0.01 + 0.0008
TRIALS = (0.02, -0.05, 0.11, 0.07, -0.01)
CFG = SignificanceConfig(alpha=0.05, spa_benchmarks=("no_trade",), pbo_blocks=8, pbo_min_trials=8)


def trial(number: int, returns: np.ndarray) -> Trial:
    return Trial(
        key=f"k{number}", asset_class="equity", snapshot="s", strategy="policy", config_digest=f"{number:016x}",
        start_ns=0, end_ns=10, num_bars=returns.size, sharpe_per_bar=sharpe_per_bar(returns), returns=tuple(returns.tolist()),
    )  # fmt: skip


@pytest.mark.parametrize("benchmark", [0.0, 0.05, -0.1])
def test_psr_equals_the_hand_formula_and_skfolio(benchmark: float) -> None:
    sr = RETURNS.mean() / RETURNS.std(ddof=1)
    spread = np.sqrt(1 - skew(RETURNS) * sr + (kurtosis(RETURNS, fisher=False) - 1) / 4 * sr**2)
    hand = norm.cdf((sr - benchmark) * np.sqrt(RETURNS.size - 1) / spread)
    assert significance.probabilistic_sharpe(RETURNS, benchmark) == pytest.approx(hand, abs=1e-12)
    assert significance.probabilistic_sharpe(RETURNS, benchmark) == pytest.approx(probabilistic_sharpe_ratio(RETURNS, benchmark), abs=1e-12)


def test_psr_of_a_normal_reduces_to_lo() -> None:
    draws = np.random.default_rng(2).normal(size=200_000) + 0.5
    sr = draws.mean() / draws.std(ddof=1)
    lo = norm.cdf((sr - 0.497) * np.sqrt(draws.size - 1) / np.sqrt(1 + sr**2 / 2))
    assert significance.probabilistic_sharpe(draws, 0.497) == pytest.approx(lo, abs=0.01)


def test_min_track_record_is_where_psr_reaches_its_level_and_equals_purgedcv() -> None:
    found = significance.min_track_record(RETURNS, 0.0, 0.05)
    sr = RETURNS.mean() / RETURNS.std(ddof=1)
    assert found is not None
    peer = min_track_record_length(sr, 0.0, 0.05, float(skew(RETURNS)), float(kurtosis(RETURNS, fisher=False)))
    assert peer - 1 <= found <= peer
    assert significance.min_track_record(RETURNS, 10.0, 0.05) is None


def test_dsr_equals_the_hand_formula_and_skfolio() -> None:
    num, spread, euler = len(TRIALS), np.std(TRIALS, ddof=1), 0.5772156649015329
    hand = spread * ((1 - euler) * norm.ppf(1 - 1 / num) + euler * norm.ppf(1 - 1 / (num * np.e)))
    assert significance.expected_max_sharpe(TRIALS) == pytest.approx(hand, abs=1e-12)
    assert significance.expected_max_sharpe(TRIALS) == pytest.approx(expected_max_sharpe_ratio(num, spread), abs=1e-12)
    found = significance.deflated_sharpe(RETURNS, TRIALS)
    assert found == pytest.approx(significance.probabilistic_sharpe(RETURNS, hand), abs=1e-12)
    assert found == pytest.approx(deflated_sharpe_ratio(RETURNS, TRIALS), abs=1e-12)


def test_dsr_with_one_trial_is_psr_against_zero_and_falls_with_trials() -> None:
    alone = significance.deflated_sharpe(RETURNS, [0.08])
    assert alone == significance.probabilistic_sharpe(RETURNS, 0.0)
    assert alone > significance.deflated_sharpe(RETURNS, TRIALS) > significance.deflated_sharpe(RETURNS, TRIALS * 20)


def test_tracks_without_variation_or_length_have_no_probability() -> None:
    assert significance.probabilistic_sharpe(np.zeros(50), 0.0) is None
    assert significance.probabilistic_sharpe(np.full(50, 0.01), 0.0) is None
    assert significance.probabilistic_sharpe(np.array([0.01, 0.02]), 0.0) is None


def test_spa_finds_a_quiet_edge_beside_a_loud_noise_because_it_is_studentised() -> None:
    """Arch 8 keeps `studentize` and never uses it: the loud column would drown the quiet one."""
    random = np.random.default_rng(3)
    quiet, loud = random.normal(size=500) * 0.001 + 0.0002, random.normal(size=500) * 0.1
    found = significance.superior_predictive_ability(np.zeros(500), np.stack([quiet, loud], axis=1), 3.0, 500, 7)
    assert found is not None and found["consistent"] < 0.02
    assert found["lower"] <= found["consistent"] <= found["upper"]
    scaled = significance.superior_predictive_ability(np.zeros(500), np.stack([quiet * 100, loud], axis=1), 3.0, 500, 7)
    assert scaled == found


def test_spa_has_the_right_sign() -> None:
    worse = np.random.default_rng(4).normal(size=(300, 2)) * 0.01 - 0.003
    found = significance.superior_predictive_ability(np.zeros(300), worse, 2.0, 300, 7)
    assert found is not None and found["consistent"] > 0.3


def test_spa_leaves_out_what_equals_the_benchmark_and_refuses_a_transposed_matrix() -> None:
    base = RETURNS
    assert significance.superior_predictive_ability(base, np.stack([base, base], axis=1), 2.0, 200, 7) is None
    with pytest.raises(ContractError, match="put time first"):
        significance.superior_predictive_ability(base, np.stack([base, base]), 2.0, 200, 7)


@pytest.mark.slow
def test_spa_rejects_one_in_twenty_worlds_without_an_edge() -> None:
    rejected = 0
    for world in range(300):
        noise = np.random.default_rng(world).normal(size=(250, 4)) * np.array([0.001, 0.01, 0.1, 1.0])
        found = significance.superior_predictive_ability(np.zeros(250), noise, 2.0, 300, world)
        rejected += found is not None and found["consistent"] < 0.05
    assert 0.02 <= rejected / 300 <= 0.09


def test_pbo_is_a_coin_on_noise_and_small_with_a_planted_edge() -> None:
    noise = [np.random.default_rng(seed).normal(size=(10, 480)) for seed in range(12)]
    found = [significance.overfitting_probability(matrix, 8) for matrix in noise]
    assert np.mean([one["pbo"] for one in found]) == pytest.approx(0.5, abs=0.12)
    edge = noise[0].copy()
    edge[3] += 0.4
    assert significance.overfitting_probability(edge, 8)["pbo"] < 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pbo_equals_purgedcv(seed: int) -> None:
    """With an even number of trials; at the exact median we count a half as overfit (lambda <= 0), purgedcv does not."""
    matrix = np.random.default_rng(seed).normal(size=(10, 400))
    matrix[2] += 0.05
    found = significance.overfitting_probability(matrix, 8)
    assert found["pbo"] == pytest.approx(probability_of_backtest_overfitting(matrix, 8).pbo, abs=1e-12)
    assert found["num_splits"] == 70


def test_pbo_refuses_a_transposed_matrix_and_skips_short_ones() -> None:
    with pytest.raises(ContractError, match="transpose it"):
        significance.overfitting_probability(np.zeros((400, 9)), 8)
    assert significance.overfitting_probability(np.zeros((9, 12)), 8) is None


def test_the_table_counts_trials_from_the_ledger_and_says_null_where_it_cannot_tell() -> None:
    random = np.random.default_rng(5)
    trials = [trial(number, random.normal(size=100) * 0.01) for number in range(9)]
    returns = {"no_trade": np.zeros(100).tolist(), "policy": (random.normal(size=100) * 0.01).tolist()}
    boot = BootstrapConfig(reps=200, confidence=0.95, min_bars=10)
    found = build_significance(returns, ["policy"], trials, CFG, boot, 7)
    assert found["num_trials"] == 9 and found["pbo"] is not None and found["strategies"]["no_trade"]["psr"] is None
    assert found["strategies"]["no_trade"]["dsr"] is None and 0 < found["strategies"]["policy"]["dsr"] < 1
    assert set(found["spa"]["no_trade"]) == {"lower", "consistent", "upper"}
    few = build_significance(returns, ["policy"], trials[:3], CFG, boot, 7)
    assert few["pbo"] is None and few["strategies"]["policy"]["dsr"] != found["strategies"]["policy"]["dsr"]
    assert build_significance(returns, ["policy"], [], CFG, boot, 7)["expected_max_sharpe_per_bar"] == 0.0


def test_a_ledger_with_more_trials_than_the_window_has_bars_still_gives_its_pbo() -> None:
    random = np.random.default_rng(11)
    trials = [trial(number, random.normal(size=40) * 0.01) for number in range(60)]
    returns = {"no_trade": np.zeros(40).tolist(), "policy": list(trials[-1].returns)}
    found = build_significance(returns, ["policy"], trials, CFG, BootstrapConfig(reps=200, confidence=0.95, min_bars=10), 7)
    assert found["pbo"]["num_trials"] == 60 and 0.0 <= found["pbo"]["pbo"] <= 1.0
    few = build_significance(returns, ["policy"], trials[:40], CFG, BootstrapConfig(reps=200, confidence=0.95, min_bars=10), 7)
    matrix = np.array([one.returns for one in trials[:40]])
    assert few["pbo"] == significance.overfitting_probability(matrix, CFG.pbo_blocks)


def test_a_trial_that_never_traded_is_counted_and_makes_nothing_laxer() -> None:
    tried = [replace(trial(number, np.zeros(4)), sharpe_per_bar=value) for number, value in enumerate((0.02, -0.05, 0.11))]
    idle = [trial(number, np.zeros(4)) for number in range(3, 6)]
    assert all(one.sharpe_per_bar is None for one in idle)
    luck = significance.expected_max_sharpe(significance.counted_sharpes([*tried, *idle]))
    alone = significance.expected_max_sharpe((0.02, -0.05, 0.11))
    assert luck == pytest.approx(significance.expected_max_sharpe((0.02, -0.05, 0.11, 0.0, 0.0, 0.0))) and luck > alone
    alike = [replace(one, sharpe_per_bar=value) for one, value in zip(tried, (0.1, -0.1, 0.1), strict=True)]
    lax = [replace(trial(number, np.zeros(4)), key=f"idle{number}") for number in range(40)]
    least = significance.expected_max_sharpe((0.1, -0.1, 0.1))
    assert significance.expected_max_sharpe((0.1, -0.1, 0.1, *[0.0] * 40)) < least  # what counting them without a floor would say
    assert significance.expected_max_sharpe(significance.counted_sharpes([*alike, *lax])) == pytest.approx(least)


@pytest.mark.parametrize(("key", "value"), [("alpha", 0.7), ("pbo_blocks", 7), ("pbo_blocks", 20), ("pbo_min_trials", 1)])
def test_a_config_that_makes_no_sense_is_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        SignificanceConfig(**{"alpha": 0.05, "spa_benchmarks": (), "pbo_blocks": 8, "pbo_min_trials": 8, key: value})
