"""The best weights of a bar: a solver of convex programs finds the same, and what a person would expect comes out."""

from typing import Any

import cvxpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.inference.portfolios.kernels import best_weight, optimal_weights

A = 5


def problem(seed: int) -> dict[str, Any]:
    """Gains, risks, costs and loans of one bar, of the sizes that daily bars have; one asset is held beyond its limit."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(A, A))
    return {
        "gain_A": 0.01 * rng.normal(size=A),
        "risk_AA": 0.02 * (mix @ mix.T / A + 0.1 * np.eye(A)),
        "held_A": rng.uniform(-0.3, 0.3, A) * rng.integers(0, 2, A),
        "cost_A": 0.002 * rng.uniform(size=A),
        "steep_A": np.zeros(A),
        "most_A": np.zeros(A),
        "power": 0.5,
        "loan_A": 0.001 * rng.uniform(size=A),
    }


def worth(
    weight: np.ndarray, gain_A: Any, risk_AA: Any, held_A: Any, cost_A: Any, steep_A: Any, most_A: Any, power: float, loan_A: Any
) -> float:
    assert not most_A.any() or (steep_A * np.abs(weight - held_A) ** power < most_A).all()  # no order is so large
    impact = steep_A @ np.abs(weight - held_A) ** (1.0 + power) / (1.0 + power)
    paid = cost_A @ np.abs(weight - held_A) + impact + loan_A @ np.maximum(-weight, 0.0)
    return float(gain_A @ weight - 0.5 * weight @ risk_AA @ weight - paid)


def solved(parts: dict[str, Any], limit: float, max_gross: float, kernel: Any = optimal_weights) -> np.ndarray:
    weight = np.zeros(A)
    kernel(*parts.values(), limit, max_gross, weight)
    return weight


@pytest.mark.parametrize("max_gross", [9.0, 0.6, 0.05])
@pytest.mark.parametrize("seed", range(6))
def test_a_solver_of_convex_programs_finds_the_same(seed: int, max_gross: float) -> None:
    parts = problem(seed)
    w = cvxpy.Variable(A)
    paid = parts["cost_A"] @ cvxpy.abs(w - parts["held_A"]) + parts["loan_A"] @ cvxpy.pos(-w)
    objective = 1e3 * (parts["gain_A"] @ w - 0.5 * cvxpy.quad_form(w, cvxpy.psd_wrap(parts["risk_AA"])) - paid)
    cvxpy.Problem(cvxpy.Maximize(objective), [cvxpy.abs(w) <= 0.25, cvxpy.norm1(w) <= max_gross]).solve(solver=cvxpy.CLARABEL)
    own = solved(parts, 0.25, max_gross)
    assert np.abs(own).max() <= 0.25 and np.abs(own).sum() <= max_gross + 1e-9
    assert own == pytest.approx(w.value, abs=1e-4)
    assert worth(own, **parts) >= worth(np.asarray(w.value), **parts) - 1e-9


@pytest.mark.parametrize("max_gross", [9.0, 0.3])
@pytest.mark.parametrize("power", [0.5, 0.6, 1.0])
@pytest.mark.parametrize("steep", [0.003, 0.03, 0.3])
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # of the solver's; what it finds must not be worth more
def test_with_impact_too_and_however_steep_it_is(steep: float, power: float, max_gross: float) -> None:
    rng = np.random.default_rng(8)
    for seed in range(4):
        parts = problem(seed) | {"steep_A": steep * rng.uniform(0.2, 1.0, A), "most_A": np.ones(A), "power": power}
        w = cvxpy.Variable(A)
        moved = cvxpy.abs(w - parts["held_A"])
        impact = parts["steep_A"] @ cvxpy.power(moved, 1.0 + power) / (1.0 + power)
        paid = parts["cost_A"] @ moved + impact + parts["loan_A"] @ cvxpy.pos(-w)
        objective = 1e3 * (parts["gain_A"] @ w - 0.5 * cvxpy.quad_form(w, cvxpy.psd_wrap(parts["risk_AA"])) - paid)
        limits = [cvxpy.abs(w) <= 0.25, cvxpy.norm1(w) <= max_gross]
        cvxpy.Problem(cvxpy.Maximize(objective), limits).solve(solver=cvxpy.CLARABEL)
        own = solved(parts, 0.25, max_gross)
        assert np.abs(own).max() <= 0.25 and np.abs(own).sum() <= max_gross + 1e-9
        assert own == pytest.approx(w.value, abs=1e-3)
        assert worth(own, **parts) >= worth(np.asarray(w.value), **parts) - 1e-9


PRICE = st.floats(0, 0.5)


@given(gain=st.floats(-2, 2), held=st.floats(-1, 1), cost=PRICE, loan=PRICE, toll=PRICE, limit=st.floats(0.1, 1))
@settings(max_examples=200, deadline=None)
def test_no_other_weight_of_one_asset_is_worth_more(gain: float, held: float, cost: float, loan: float, toll: float, limit: float) -> None:
    def value(w: np.ndarray) -> np.ndarray:
        return gain * w - 0.75 * w**2 - cost * np.abs(w - held) - loan * np.maximum(-w, 0.0) - toll * np.abs(w)

    best = best_weight(gain, 1.5, held, cost, loan, toll, limit)
    grid = np.append(np.linspace(-limit, limit, 2001), np.clip([0.0, held], -limit, limit))
    assert abs(best) <= limit
    assert value(np.array([best]))[0] >= value(grid).max() - 1e-12


def test_what_a_trade_costs_more_than_it_brings_is_left_as_it_is() -> None:
    parts = problem(1) | {"held_A": np.array([0.1, -0.1, 0.0, 0.2, 0.05]), "cost_A": np.ones(A)}
    assert solved(parts, 0.25, 9.0) == pytest.approx(parts["held_A"], abs=0)


def test_without_costs_and_limits_it_is_the_textbook_portfolio() -> None:
    parts = problem(2) | {"cost_A": np.zeros(A), "loan_A": np.zeros(A)}
    assert solved(parts, 1e3, 1e6) == pytest.approx(np.linalg.solve(parts["risk_AA"], parts["gain_A"]), rel=1e-6)


def test_a_dearer_trade_never_moves_further() -> None:
    parts = problem(4)
    moved = [np.abs(solved(parts | {"cost_A": factor * parts["cost_A"]}, 0.25, 9.0) - parts["held_A"]).sum() for factor in (0, 1, 3, 10)]
    assert moved == sorted(moved, reverse=True) and moved[0] > moved[-1]


def test_the_compiled_kernel_and_its_source_agree() -> None:
    for seed in range(3):
        parts = problem(seed) | {"steep_A": np.full(A, 0.01), "most_A": np.full(A, 0.002)}
        assert solved(parts, 0.25, 0.5) == pytest.approx(solved(parts, 0.25, 0.5, optimal_weights.py_func), abs=1e-12)
        assert solved(problem(seed), 0.25, 0.5) == pytest.approx(solved(problem(seed), 0.25, 0.5, optimal_weights.py_func), abs=1e-14)
