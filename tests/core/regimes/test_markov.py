"""The hidden Markov model against sums over logarithms, and its filter against statsmodels."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm
from statsmodels.tsa.regime_switching.markov_regression import MarkovRegression

from plusultra_core.regimes import markov
from plusultra_core.regimes.markov import Fitting, Model, Pass

Array = np.ndarray[Any, Any]
CODES = {2: (1, 3), 3: (1, 2, 3)}
FITTING = Fitting(window=120, refit=40, min_count=60, first_iterations=8, iterations=3, min_variance=0.01, pseudo_count=1.0, stay_count=5.0)


def returns(seed: int, num: int = 300) -> Array:
    rng = np.random.default_rng(seed)
    return 0.0005 + rng.standard_normal(num) * np.where(np.arange(num) // 40 % 2, 0.03, 0.008)


def model(num: int) -> Model:
    stay = np.full((num, num), 0.1 / (num - 1)) + np.eye(num) * (0.9 - 0.1 / (num - 1))
    return Model(np.linspace(0.001, -0.002, num), np.linspace(0.008, 0.03, num) ** 2, stay)


def room(size: int, num: int) -> Pass:
    return Pass(np.empty((size, num)), np.empty((size, num)), np.empty(size))


def slow_posteriors(x: Array, m: Model) -> tuple[Array, Array, Array, float]:
    """Filtered and smoothed probabilities, expected moves, log likelihood; everything in logarithms."""
    num = m.mean_K.size
    density = norm.logpdf(x[:, None], m.mean_K, np.sqrt(m.variance_K))
    step = np.log(m.transition_KK)
    ahead, back = np.empty((x.size, num)), np.zeros((x.size, num))
    before = np.full(num, -np.log(num))
    for i in range(x.size):
        before = logsumexp(before[:, None] + step, axis=0) + density[i]
        ahead[i] = before
    for i in range(x.size - 2, -1, -1):
        back[i] = logsumexp(step + density[i + 1] + back[i + 1], axis=1)
    whole = float(logsumexp(ahead[-1]))
    earlier = np.vstack([np.full((1, num), -np.log(num)), ahead[:-1]])
    moves = np.exp(earlier[:, :, None] + step + (density + back)[:, None, :] - whole).sum(axis=0)
    return np.exp(ahead - logsumexp(ahead, axis=1, keepdims=True)), np.exp(ahead + back - whole), moves, whole


def slow_improve(x: Array, m: Model, least: float, fitting: Fitting) -> Model:
    _, smoothed, moves, _ = slow_posteriors(x, m)
    weight = smoothed.sum(axis=0)
    mean = smoothed.T @ x / weight
    variance = np.maximum((smoothed * (x[:, None] - mean) ** 2).sum(axis=0) / weight, least)
    counted = moves + fitting.pseudo_count + fitting.stay_count * np.eye(m.mean_K.size)
    return Model(mean, variance, counted / counted.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("num", [2, 3])
def test_the_filter_is_the_sum_over_all_paths(num: int) -> None:
    x, found = returns(0), room(300, num)
    markov.forward(x, CODES[num], model(num), found)
    filtered, _, _, likelihood = slow_posteriors(x, model(num))
    np.testing.assert_allclose(found.belief_NK, filtered, atol=1e-12)
    last = norm.logpdf(x, model(num).mean_K[-1], np.sqrt(model(num).variance_K[-1]))
    assert np.log(found.scale_N).sum() + last.sum() == pytest.approx(likelihood, rel=1e-12)


def test_the_filter_is_that_of_statsmodels() -> None:
    x, m, found = returns(1), model(2), room(300, 2)
    markov.forward(x, CODES[2], m, found)
    peer = MarkovRegression(x, k_regimes=2, trend="c", switching_variance=True)
    peer.initialize_known(np.array([0.5, 0.5]))
    stay, leave = m.transition_KK[0, 0], m.transition_KK[1, 0]
    result = peer.filter(np.array([stay, leave, *m.mean_K, *m.variance_K]))
    np.testing.assert_allclose(found.belief_NK, result.filtered_marginal_probabilities, atol=1e-10)


@pytest.mark.parametrize("num", [2, 3])
def test_a_step_of_the_fit_is_that_of_the_slow_twin_and_never_makes_the_bars_less_likely(num: int) -> None:
    x, fast, slow = returns(2, 150), model(num), model(num)
    bare, likelihood = FITTING._replace(pseudo_count=0.0, stay_count=0.0), -np.inf
    for _ in range(6):
        slow = slow_improve(x, slow, 1e-8, bare)
        markov.improve(x, CODES[num], 1e-8, bare, fast, room(150, num))
        for one, two in zip(fast, slow, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-8)
        likelihood, before = slow_posteriors(x, slow)[3], likelihood
        assert likelihood >= before - 1e-9


@pytest.mark.parametrize("num", [2, 3])
def test_states_are_ordered_by_variance_after_every_fit(num: int) -> None:
    found = Model(np.empty(num), np.empty(num), np.empty((num, num)))
    for seed in range(20):
        assert markov.fit(returns(seed), CODES[num], FITTING, seed > 0, found, room(300, num))
        assert (np.diff(found.variance_K) >= 0).all()
        np.testing.assert_allclose(found.transition_KK.sum(axis=1), 1.0)
        assert (found.transition_KK > 0).all()


def test_planted_spreads_are_found() -> None:
    found = Model(np.empty(2), np.empty(2), np.empty((2, 2)))
    markov.fit(returns(3, 4000), CODES[2], FITTING._replace(first_iterations=30), False, found, room(4000, 2))
    np.testing.assert_allclose(np.sqrt(found.variance_K), [0.008, 0.03], rtol=0.05)
    np.testing.assert_allclose(np.diag(found.transition_KK), 1 - 1 / 40, atol=0.01)


@pytest.mark.parametrize("num", [2, 3])
def test_states_are_those_of_fits_at_fixed_bars_on_the_past_alone(num: int) -> None:
    """Every fit done again by the slow twin on nothing but the window that ends at its bar; two symbols end to end."""
    lengths = (230, 170)
    x = np.concatenate([np.r_[np.nan, returns(seed, size - 1)] for seed, size in zip((4, 5), lengths, strict=True)])
    starts = np.array([0, 230, 400])
    state, prob = markov.filtered_states(x, starts, CODES[num], FITTING)
    for first, last in itertools.pairwise(starts):
        assert (state[first : first + 60] == 0).all() and np.isnan(prob[first : first + 60]).all()
        m = Model(np.empty(num), np.empty(num), np.empty((num, num)))
        for turn, i in enumerate(range(first + 60, last, 40)):
            low = max(first + 1, i - 119)
            part = x[low : i + 1]
            if turn == 0:
                spread = part.var() * 0.25 * 4.0 ** (2.0 * np.arange(num) / (num - 1))
                stay = np.where(np.eye(num) == 1, 0.95, 0.05 / (num - 1))
                m = Model(np.full(num, part.mean()), spread, stay)
            for _ in range(8 if turn == 0 else 3):
                m = slow_improve(part, m, 0.01 * part.var(), FITTING)
            order = np.argsort(m.variance_K, kind="stable")
            m = Model(m.mean_K[order], m.variance_K[order], m.transition_KK[order][:, order])
            end = min(last, i + 40)
            filtered = slow_posteriors(x[low:end], m)[0][i - low :]
            np.testing.assert_allclose(prob[i:end], filtered.max(axis=1), rtol=1e-6)
            np.testing.assert_array_equal(state[i:end], np.array(CODES[num])[filtered.argmax(axis=1)])


def test_stays_that_are_added_make_states_last() -> None:
    heavy = 0.01 * np.random.default_rng(9).standard_t(3, 2_000)
    x, starts = np.r_[np.nan, heavy], np.array([0, 2_001])
    changes = []
    for stay_count in (0.0, 100.0):
        state, _ = markov.filtered_states(x, starts, CODES[2], FITTING._replace(window=500, stay_count=stay_count))
        changes.append(int((np.diff(state[60:]) != 0).sum()))
    assert 0 < changes[1] < 0.7 * changes[0]


def test_a_price_that_stands_still_is_unknown_until_it_moves_again() -> None:
    x = np.r_[np.nan, np.zeros(139), returns(6, 100)]
    state, prob = markov.filtered_states(x, np.array([0, x.size]), CODES[2], FITTING._replace(window=60))
    assert (state[:140] == 0).all() and np.isnan(prob[:140]).all()
    assert (state[140:] > 0).all() and np.isfinite(prob[140:]).all()


@pytest.mark.parametrize("shock", [1e3, -1e3, 1e-300])
def test_a_bar_beyond_all_measure_leaves_probabilities(shock: float) -> None:
    x = np.r_[np.nan, returns(7)]
    x[200] = shock
    state, prob = markov.filtered_states(x, np.array([0, x.size]), CODES[3], FITTING)
    assert (state[60:] > 0).all() and ((prob[60:] > 1 / 3 - 1e-9) & (prob[60:] <= 1 + 1e-12)).all()


def test_the_python_source_says_the_same() -> None:
    x, starts = np.r_[np.nan, returns(8, 130)], np.array([0, 131])
    kernel = markov.filtered_states
    state, prob = kernel(x, starts, CODES[3], FITTING)
    plain_state, plain_prob = getattr(kernel, "py_func", kernel)(x, starts, CODES[3], FITTING)
    np.testing.assert_array_equal(state, plain_state)
    np.testing.assert_allclose(prob, plain_prob, rtol=1e-12)


def test_a_fitting_says_all_that_the_config_says() -> None:
    from plusultra_core.regimes.build import MarkovConfig

    named = {field.name.removesuffix("_bars") for field in dataclasses.fields(MarkovConfig)} - {"num_states"}
    assert named == set(Fitting._fields)
