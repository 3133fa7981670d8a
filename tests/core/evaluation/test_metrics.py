"""Metrics against two peer libraries and at the edges where they are not defined."""

import json

import empyrical
import numpy as np
import pytest
from skfolio.measures import cvar, ulcer_index, value_at_risk
from skfolio.measures import get_drawdowns as skfolio_drawdowns

from plusultra_core.errors import ContractError
from plusultra_core.evaluation import metrics
from plusultra_core.evaluation.metrics import performance

RETURNS = np.random.default_rng(5).standard_t(4, size=500) * 0.01 + 0.0004


@pytest.mark.parametrize("year", [252.0, 365.25, 252.0 * 6.5, 365.25 * 24])
def test_ratios_equal_empyrical_at_every_bar_size(year: float) -> None:
    found = performance(RETURNS, year)
    peer = {
        "total_return": empyrical.cum_returns_final(RETURNS),
        "cagr": empyrical.annual_return(RETURNS, annualization=year),
        "volatility": empyrical.annual_volatility(RETURNS, annualization=year),
        "sharpe": empyrical.sharpe_ratio(RETURNS, annualization=year),
        "sortino": empyrical.sortino_ratio(RETURNS, annualization=year),
        "calmar": empyrical.calmar_ratio(RETURNS, annualization=year),
        "max_drawdown": -empyrical.max_drawdown(RETURNS),
        "tail_ratio": empyrical.tail_ratio(RETURNS),
    }
    for name, value in peer.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize("num", [1, 7, 99, 100, 101, 500])
def test_tail_risk_and_ulcer_equal_skfolio(num: int) -> None:
    ret_T = RETURNS[:num]
    found = performance(ret_T, 252.0)
    assert found["var_95_historical"] == pytest.approx(value_at_risk(ret_T, 0.95), abs=1e-15)
    assert found["cvar_95_historical"] == pytest.approx(cvar(ret_T, 0.95), abs=1e-15)
    assert found["cvar_95_historical"] >= found["var_95_historical"]
    assert found["ulcer"] == pytest.approx(ulcer_index(skfolio_drawdowns(ret_T, compounded=True)), abs=1e-15)


def test_shape_moments_are_those_of_a_normal_on_normal_draws() -> None:
    draws = np.random.default_rng(1).normal(size=200_000)
    assert performance(draws * 1e-3, 252.0)["skew"] == pytest.approx(0.0, abs=0.02)
    assert performance(draws * 1e-3, 252.0)["kurtosis"] == pytest.approx(3.0, abs=0.05)


def test_a_year_of_other_length_scales_sharpe_by_its_root() -> None:
    assert performance(RETURNS, 365.25)["sharpe"] == pytest.approx(performance(RETURNS, 252.0)["sharpe"] * (365.25 / 252.0) ** 0.5)


def test_periods_per_year_has_no_default() -> None:
    with pytest.raises(TypeError, match="periods_per_year"):
        performance(RETURNS)  # type: ignore[call-arg]
    with pytest.raises(ContractError, match=r"periods_per_year: expected > 0, found 0"):
        performance(RETURNS, 0.0)


def test_a_losing_track_keeps_its_sign() -> None:
    found = performance(-np.abs(RETURNS) - 1e-4, 252.0)
    assert found["sharpe"] < 0 and found["sortino"] < 0 and found["cagr"] < 0 and found["calmar"] < 0 and found["total_return"] < 0


def test_no_trade_has_no_ratio_and_says_null() -> None:
    found = performance(np.zeros(50), 252.0)
    undefined = {"sharpe", "sortino", "calmar", "hit_rate", "tail_ratio", "skew", "kurtosis"}
    assert {name for name, value in found.items() if value is None} == undefined
    assert found["total_return"] == 0.0 and found["max_drawdown"] == 0.0
    assert "NaN" not in json.dumps(found)


def test_constant_returns_have_no_sharpe_although_rounding_gives_them_a_deviation() -> None:
    ret_T = np.full(51, 0.0007)
    assert ret_T.std(ddof=1) > 0
    found = performance(ret_T, 252.0)
    assert found["sharpe"] is None and found["kurtosis"] is None and found["skew"] is None
    assert found["cagr"] == pytest.approx(1.0007**252 - 1)


def test_one_bar_is_scored_without_a_deviation() -> None:
    found = performance(np.array([-0.02]), 252.0)
    assert found["sharpe"] is None and found["volatility"] is None
    assert found["max_drawdown"] == pytest.approx(0.02) and found["hit_rate"] == 0.0


def test_a_single_huge_bar_overflows_to_null_and_not_to_infinity() -> None:
    assert performance(np.array([5.0]), 525_600.0)["cagr"] is None


@pytest.mark.parametrize("blow", [-1.0, -1.7, -40.0])
def test_a_drawdown_is_never_above_all_that_was_there(blow: float) -> None:
    found = performance(np.array([0.5, blow, 0.9, 0.9]), 252.0)
    assert found["max_drawdown"] == 1.0 and found["total_return"] == -1.0 and found["cagr"] == -1.0
    assert found["ulcer"] <= 1.0


def test_a_drawdown_counts_from_the_starting_capital() -> None:
    assert performance(np.array([-0.1, 0.05]), 252.0)["max_drawdown"] == pytest.approx(0.1)


def test_what_is_missing_is_refused_and_not_taken_as_zero() -> None:
    with pytest.raises(ContractError, match="1 of 3 are not finite"):
        performance(np.array([0.1, np.nan, 0.1]), 252.0)
    with pytest.raises(ContractError, match=r"found shape \(0,\)"):
        performance(np.empty(0), 252.0)
    with pytest.raises(ContractError, match="not finite"):
        performance(np.array([0.1, np.inf]), 252.0)


def test_resamples_are_scored_by_the_same_lines_as_the_series() -> None:
    stacked = np.stack([RETURNS, RETURNS[::-1], np.zeros_like(RETURNS)])
    for name, statistic in metrics.STATISTICS.items():
        each = [float(statistic(row, 252.0)) for row in stacked]
        assert np.allclose(statistic(stacked, 252.0), each, equal_nan=True, rtol=1e-12), name


def test_turnover_and_exposure_are_part_of_the_table() -> None:
    found = performance(RETURNS, 252.0, turnover_T=np.full(500, 0.1), exposure_T=np.linspace(0.0, 1.0, 500))
    assert found["turnover_year"] == pytest.approx(25.2)
    assert found["exposure_mean"] == pytest.approx(0.5) and found["exposure_max"] == 1.0


def test_adding_a_benchmark_changes_no_metric() -> None:
    assert performance(RETURNS, 252.0) == {
        name: value for name, value in performance(RETURNS, 252.0, turnover_T=RETURNS * 0, exposure_T=RETURNS * 0).items()
        if name not in ("turnover_year", "exposure_mean", "exposure_max")
    }  # fmt: skip
