"""Every term of risk is its closed form on a series made by hand; schedules go where they say."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from plusultra_core.errors import ConfigError
from plusultra_core.rl.curriculum import risk
from plusultra_core.rl.curriculum.risk import Charged, RiskConfig, Schedule
from plusultra_core.rl.env import TradingEnv

OFF = Schedule(kind="constant", start=0.0, end=0.0)
ON = Schedule(kind="constant", start=1.0, end=1.0)
CFG = RiskConfig(sharpe=OFF, sortino=OFF, drawdown=OFF, cvar=OFF, entropic=OFF, decay=0.05, level=0.25, aversion=3.0)
RET = np.array([0.02, -0.01, 0.03, -0.04, 0.01, 0.015, -0.02, 0.005])


def charged(name: str, ret: np.ndarray, shared: np.ndarray | None = None, decay: float = CFG.decay) -> np.ndarray:
    """The term along a series of one account."""
    own, shared = np.zeros((1, 5)), np.zeros(4) if shared is None else shared
    coefs = np.array([float(term == name) for term in risk.TERMS])
    out = []
    for value in ret:
        added = np.empty(1)
        risk.charge(np.array([value]), own, shared, coefs, decay, CFG.level, CFG.aversion, added)
        out.append(added[0])
    return np.array(out)


def moving(of: Any, ret: np.ndarray, decay: float) -> np.ndarray:
    """Exponential mean before each bar, from 0."""
    means, mean = [], 0.0
    for value in ret:
        means.append(mean)
        mean += decay * (of(value) - mean)
    return np.array(means)


@pytest.mark.parametrize("name", ["sharpe", "sortino"])
def test_differential_ratios_are_the_slope_of_the_ratio_in_the_weight_of_the_newest_return(name: str) -> None:
    down = moving(lambda r: min(r, 0.0) ** 2, RET, CFG.decay)
    first, second = moving(lambda r: r, RET, CFG.decay), moving(lambda r: r * r, RET, CFG.decay)

    def ratio(t: int, weight: float) -> float:
        a = first[t] + weight * (RET[t] - first[t])
        if name == "sharpe":
            return a / math.sqrt(second[t] + weight * (RET[t] ** 2 - second[t]) - a * a)
        return a / math.sqrt(down[t] + weight * (min(RET[t], 0.0) ** 2 - down[t]))

    found = charged(name, RET)
    for t in range(3, len(RET)):
        slope = (ratio(t, 1e-6) - ratio(t, -1e-6)) / 2e-6
        assert found[t] == pytest.approx(min(max(slope, -10.0), 10.0), rel=1e-5)
    assert found[0] == 0.0
    assert max(abs(found)) > 1.0


def test_the_drawdown_charges_sum_to_the_falls_from_the_peak() -> None:
    """Equity 100, 90, 95, 80, 110, 99 lies 0, 10, 5, 20, 0 and 10 percent under its peak."""
    equity = np.array([100.0, 90.0, 95.0, 80.0, 110.0, 99.0])
    assert -charged("drawdown", np.diff(np.log(equity))) == pytest.approx([0.10, 0.0, 0.15, 0.0, 0.10])


def test_at_the_value_at_risk_the_mean_charge_is_the_mean_of_the_worst_bars_and_anywhere_else_more() -> None:
    """Of eight bars a tail of a quarter holds two: losses of 4 and 2 percent, 3 in the mean."""
    mean = {var: np.mean([risk.tail_loss(r, var, 0.25) for r in RET]) for var in (0.0, 0.01, 0.015, 0.02, 0.03, 0.04)}
    assert mean[0.01] == mean[0.015] == mean[0.02] == pytest.approx(0.03)
    assert min(mean[0.0], mean[0.03], mean[0.04]) > 0.0301


def test_the_running_value_at_risk_goes_to_the_quantile_and_the_charge_to_the_cvar() -> None:
    ret = np.random.default_rng(0).normal(0.001, 0.01, 40_000)
    shared = np.zeros(4)
    found = -charged("cvar", ret, shared, decay=0.002)
    quantile = -0.001 + 0.01 * 0.6744897501960817
    cvar = -0.001 + 0.01 * math.exp(-(0.6744897501960817**2) / 2) / math.sqrt(2 * math.pi) / 0.25
    assert shared[0] == pytest.approx(quantile, abs=5e-4)
    assert found[10_000:].mean() == pytest.approx(cvar, rel=0.02)


def test_at_the_mean_exponential_the_mean_charge_is_the_entropic_risk_and_anywhere_else_more() -> None:
    exact = math.log(np.mean(np.exp(-3.0 * RET))) / 3.0
    right = float(np.mean(np.exp(-3.0 * RET)))
    assert np.mean([risk.entropic_loss(r, right, 3.0) for r in RET]) == pytest.approx(exact, rel=1e-9)
    for wrong in (0.9 * right, 1.1 * right):
        assert np.mean([risk.entropic_loss(r, wrong, 3.0) for r in RET]) > exact


def test_the_running_mean_exponential_goes_to_that_of_a_normal() -> None:
    ret = np.random.default_rng(1).normal(0.0, 0.1, 40_000)
    found = -charged("entropic", ret, decay=0.002)
    assert found[5_000:].mean() == pytest.approx(3.0 * 0.1**2 / 2, rel=0.1)


def test_a_ruinous_bar_is_charged_a_finite_amount() -> None:
    assert math.isfinite(risk.entropic_loss(-50.0, 1.0, 3.0))


@pytest.mark.parametrize("term", ["differential_sharpe", "differential_sortino", "drawdown_increase", "tail_loss", "entropic_loss"])
def test_the_terms_are_their_python(term: str) -> None:
    kernel = getattr(risk, term)
    for arguments in ((0.01, 0.002, 0.3), (-0.03, 0.004, 0.2)):
        assert kernel(*arguments) == pytest.approx(getattr(kernel, "py_func", kernel)(*arguments), rel=1e-14)


def test_schedules_go_from_start_to_end() -> None:
    halves = {kind: Schedule(kind=kind, start=1.0, end=3.0).at(0.5) for kind in ("constant", "linear", "cosine")}
    assert halves == pytest.approx({"constant": 1.0, "linear": 2.0, "cosine": 2.0})
    assert [Schedule(kind="cosine", start=1.0, end=3.0).at(p) for p in (0.0, 0.25, 1.0)] == pytest.approx([1.0, 2 - math.sqrt(0.5), 3.0])
    assert Schedule(kind="linear", start=0.0, end=1.0).is_off is False
    assert Schedule(kind="constant", start=0.0, end=1.0).is_off is True
    assert CFG.is_off
    assert tuple(field.name for field in fields(RiskConfig))[:5] == risk.TERMS
    assert replace(CFG, cvar=Schedule(kind="linear", start=0.0, end=2.0)).coefs(0.5).tolist() == [0.0, 0.0, 0.0, 1.0, 0.0]
    with pytest.raises(ConfigError, match=">= 0"):
        Schedule(kind="linear", start=-1.0, end=1.0)


def test_charged_episodes_pay_the_terms_of_their_own_returns_and_go_on_from_a_state(lab: Any) -> None:
    world, run = lab.world(), lab.run
    cfg = replace(CFG, drawdown=ON, cvar=ON)

    def env(with_risk: bool) -> Any:
        made = TradingEnv(world, 8, (0, 300), 20, 0.0, run.reward)
        return Charged(made, cfg, run.reward.scale) if with_risk else made

    plain, charged_env = env(False), env(True)
    actions = np.random.default_rng(2).uniform(-1, 1, (30, 8))
    for made in (plain, charged_env):
        made.reset(np.random.default_rng(0))
    own, shared, coefs = np.zeros((8, 5)), np.zeros(4), cfg.coefs(0.0)
    saved: Any = None
    later = []
    for t, action in enumerate(actions):
        if t == 15:
            saved = charged_env.state()
        a, b = plain.step(action, np.random.default_rng(t)), charged_env.step(action, np.random.default_rng(t))
        added = np.empty(8)
        risk.charge(a.ret_E, own, shared, coefs, cfg.decay, cfg.level, cfg.aversion, added)
        own[a.ended_E] = 0.0
        assert np.array_equal(b.reward_E, a.reward_E + run.reward.scale * added)
        assert np.array_equal(b.final_obs_EP, a.final_obs_EP)
        later.append(b.reward_E)
    other = env(True)
    other.load_state(saved)
    for t in range(15, 30):
        assert np.array_equal(other.step(actions[t], np.random.default_rng(t)).reward_E, later[t])
