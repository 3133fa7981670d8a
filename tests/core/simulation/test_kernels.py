"""The step kernel against a slow twin written another way, and against what must hold of any market."""

import hashlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY, NS_PER_YEAR
from plusultra_core.guardrails import kernels as rulebook
from plusultra_core.guardrails import limits
from plusultra_core.simulation import costs, kernels, records, tiles
from plusultra_core.simulation.costs import fill_quantity, impact_frac, in_lots, limit_price, replaces, worst_price
from plusultra_core.simulation.engine import build_rules
from plusultra_core.simulation.kernel import bars, calm, lanes, lines, runs, single, slots, whole, wires
from plusultra_core.simulation.records import FILLED, GTC, LIQUIDATED, PARTIAL, REASONS, STATUSES


@dataclass
class Twin:
    """One account with plain floats and dictionaries; no code of the simulator inside."""

    market: Any
    rules: Any
    latency: Any
    cash: float
    held: dict[int, float] = field(default_factory=dict)
    order: dict[int, tuple[float, int]] = field(default_factory=dict)
    mark: dict[int, float] = field(default_factory=dict)
    dead: bool = False

    def equity(self) -> float:
        return self.cash + sum(q * self.mark[n] for n, q in self.held.items() if q)

    def step(self, t: int, target: np.ndarray) -> float:
        m, r = self.market, self.rules
        if self.dead:
            return self.equity()
        for n in range(len(target)):
            if m.tradable[t, n]:
                self.mark[n] = float(m.close[t, n])
        equity, now = self.equity(), int(m.ts_ns[t])
        for n, weight in enumerate(target):
            if math.isnan(weight) or n not in self.mark:
                continue
            want = weight * equity / self.mark[n] - self.held.get(n, 0.0)
            old, arrival = self.order.get(n, (0.0, 0))
            if old and arrival > now:
                continue
            if old and old * want > 0 and abs(want - old) <= r.retarget_frac * abs(old):
                continue
            self.order.pop(n, None)
            if want and abs(want) * self.mark[n] >= r.min_order_ccy:
                self.order[n] = (want, now + int(self.latency[t, n]))
        gross = sum(abs(q) * self.mark[n] for n, q in self.held.items() if q)
        self.room = r.max_leverage * equity - gross
        opens = {n for n, (w, _) in self.order.items() if abs(self.held.get(n, 0.0) + w) > abs(self.held.get(n, 0.0))}
        for n in sorted(set(self.order) - opens) + sorted(opens):
            self.fill(t, n)
        self.settle(t)
        return self.equity()

    def fill(self, t: int, n: int) -> None:
        m, r = self.market, self.rules
        want, arrival = self.order[n]
        if arrival > m.ts_ns[t + 1]:
            return
        got = 0.0
        if m.tradable[t + 1, n]:
            begin = max(int(m.ts_ns[t]), int(m.ts_ns[t + 1]) - r.bar_ns)
            price = float(m.close[t + 1, n])
            if not math.isnan(m.open[t + 1, n]):
                late = max(arrival - begin, 0) / (int(m.ts_ns[t + 1]) - begin)
                price = float(m.open[t + 1, n]) * (1 - late) + price * late
            held = self.held.get(n, 0.0)
            size = min(abs(want), r.participation * float(m.volume[t + 1, n]))
            frees = min(size, abs(held)) if held * want < 0 else 0.0
            allowed = max(self.room / price + frees, 0.0)
            if size - frees > allowed:
                size = frees + (allowed if allowed * price >= r.min_order_ccy else 0.0)
            if size > 0:
                got = math.copysign(size, want)
                share = size * price / float(m.adv_ccy[t, n])
                slip = float(m.half_spread_bps[t, n]) * 1e-4 + min(r.impact_coef * float(m.sigma[t, n]) * share**r.impact_exponent, 0.5)
                paid = price * (1 + math.copysign(slip, want))
                self.cash -= got * paid + max(r.fee_frac * size * paid, r.fee_min_ccy)
                self.held[n] = held + got
                self.room -= (abs(held + got) - abs(held)) * price
        rest = want - got
        if r.time_in_force == GTC and abs(rest) > 1e-12 * abs(want):
            self.order[n] = (rest, arrival)
        else:
            del self.order[n]

    def settle(self, t: int) -> None:
        m, r = self.market, self.rules
        old = dict(self.mark)
        for n in range(m.close.shape[1]):
            if m.tradable[t + 1, n]:
                self.mark[n] = float(m.close[t + 1, n])
        for n, q in self.held.items():
            if q and r.funding:
                self.cash -= q * self.mark[n] * float(m.funding[t + 1, n])
            if q < 0:
                self.cash += q * old[n] * r.borrow_frac_year * (int(m.ts_ns[t + 1]) - int(m.ts_ns[t])) / NS_PER_YEAR
        bad = {n: self.worst(t + 1, n, q) for n, q in self.held.items() if q}
        gross = sum(abs(self.held[n]) * p for n, p in bad.items())
        if gross and self.cash + sum(self.held[n] * p for n, p in bad.items()) < r.maintenance_margin * gross:
            for n, p in bad.items():
                self.cash += self.held[n] * p - abs(self.held[n]) * p * r.liquidation_penalty_frac
            self.held, self.order, self.dead = {}, {}, True

    def worst(self, t: int, n: int, q: float) -> float:
        if not self.market.tradable[t, n]:
            return self.mark[n]
        return float(min(self.market.low[t, n], self.mark[n]) if q > 0 else max(self.market.high[t, n], self.mark[n]))


settings_of_a_run = st.fixed_dictionaries(
    {
        "time_in_force": st.sampled_from(["bar", "gtc"]),
        "participation": st.sampled_from([1e-4, 0.01, 1.0]),
        "latency_ms": st.sampled_from([(0.0, 60_000.0), (250.0, 1.3e8), (4e7, 8.6e7)]),
        "latency_prob": st.just((0.6, 0.4)),
        "retarget_frac": st.sampled_from([0.0, 0.3]),
        "min_order_ccy": st.sampled_from([1e-3, 5_000.0]),
        "max_leverage": st.sampled_from([1.0, 5.0]),
        "maintenance_margin": st.sampled_from([0.02, 0.15]),
    }
)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), gaps=st.sampled_from([0.0, 0.2]), size=st.sampled_from([0.2, 3.0]), changes=settings_of_a_run)
def test_any_market_gives_what_the_slow_twin_gives_and_balances(
    world: Any, seed: int, gaps: float, size: float, changes: dict[str, Any]
) -> None:
    market = world.market(40, 3, seed=seed, gaps=gaps, half_spread_bps=4.0)
    rng = np.random.default_rng(seed)
    targets = rng.normal(0, size, (39, 3))
    targets[rng.random((39, 3)) < 0.3] = np.nan
    ledger = world.run(market, targets, costs=world.costly, **changes)
    twin = Twin(market, None, ledger.steps.latency, 1e6)
    twin.rules = build_rules(*world.bent(world.costly, **changes), NS_PER_DAY)
    equity = [1e6] + [twin.step(t, ledger.steps.target[t]) for t in range(39)]
    assert np.allclose(ledger.equity, equity, rtol=1e-9, atol=1e-3)
    assert np.abs(ledger.residual()).max() < 1e-9
    assert ledger.liquidated == twin.dead
    _check_orders(market, ledger, changes["participation"])


def _check_orders(market: Any, ledger: Any, participation: float) -> None:
    steps, orders = ledger.steps, ledger.orders()
    filled = steps.fill != 0
    assert np.all(np.abs(steps.fill) <= np.abs(steps.order) * (1 + 1e-12))
    assert np.all(np.abs(steps.fill) <= participation * market.volume[1:] * (1 + 1e-12))
    assert np.all(market.tradable[1:][filled])
    assert np.all(steps.arrival[filled] <= np.broadcast_to(market.ts_ns[1:, None], filled.shape)[filled])
    assert np.all(orders["arrival_ns"] >= orders["decision_ns"])
    done = orders["qty_filled"] > 0
    assert np.all(orders["fill_ns"][done] >= orders["arrival_ns"][done])
    assert np.all(orders["qty_filled"] <= orders["qty_ordered"] * (1 + 1e-9))
    assert np.isclose(orders["qty_filled"].sum(), np.abs(steps.fill).sum())
    assert set(orders["status"].tolist()) <= set(STATUSES)
    assert set(orders["reason"].tolist()) <= set(REASONS)
    assert np.all((orders["status"] == FILLED) <= (orders["reason"] % LIQUIDATED == 0))
    assert np.all((orders["status"] != FILLED) <= (orders["reason"] != 0))
    assert np.all((orders["status"] == PARTIAL) <= done)
    if not ledger.liquidated:
        assert np.allclose(np.cumsum(steps.fill, axis=0), steps.position, rtol=1e-9, atol=1e-6)


def test_impact_grows_with_size_and_volatility_and_falls_with_volume(world: Any) -> None:
    rules = build_rules(world.plain, world.costly, NS_PER_DAY)
    sizes = [impact_frac(q, 0.02, 1e8, rules) for q in (1.0, 1e4, 1e6, 1e8)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert sizes[3] == pytest.approx(0.02)
    assert sizes[2] == pytest.approx(0.002)
    assert impact_frac(1e6, 0.04, 1e8, rules) > impact_frac(1e6, 0.02, 1e8, rules) > impact_frac(1e6, 0.02, 1e9, rules)
    assert impact_frac(1e15, 0.5, 1.0, rules) == 0.5


def test_an_order_within_the_bar_meets_the_line_from_open_to_close(world: Any) -> None:
    market = world.market(3, 1)
    first, last = market.open[1, 0], market.close[1, 0]
    for hours, price in ((0, first), (12, (first + last) / 2), (24, last)):
        ledger = world.run(market, [[0.5], [math.nan]], latency_ms=(hours * 3_600_000.0,))
        assert ledger.steps.price[0, 0] == pytest.approx(price)


def test_a_limit_fills_only_when_the_bar_trades_through_it(world: Any) -> None:
    market = world.flat(4)._replace(low=np.full((4, 1), 95.0), high=np.full((4, 1), 105.0))
    for side, offset_bps, price in ((1.0, 500.0, 0.0), (1.0, 490.0, 95.1), (-1.0, 490.0, 104.9), (-1.0, 500.0, 0.0)):
        ledger = world.run(market, [[0.5 * side], [math.nan], [math.nan]], order_type="limit", limit_offset_bps=offset_bps)
        assert ledger.steps.price[0, 0] == pytest.approx(price)


def test_a_bar_that_gaps_through_a_resting_limit_fills_at_its_open(world: Any) -> None:
    market = world.flat(4, half_spread_bps=5.0)
    for array in (market.open, market.high, market.low, market.close):
        array[2:] = 90.0
    ledger = world.run(market, [[0.5], [math.nan], [math.nan]], order_type="limit", limit_offset_bps=100.0, time_in_force="gtc")
    assert ledger.steps.price[:, 0].tolist() == [0.0, 90.0, 0.0]
    assert ledger.steps.spread.sum() == 0.0


def test_a_limit_that_the_market_has_passed_on_arrival_takes_and_pays_no_more_than_its_limit(world: Any) -> None:
    market = world.flat(4, half_spread_bps=5.0)
    market.open[1] = 98.0
    costs = replace(world.costly, impact_coef=50.0)
    ledger = world.run(market, [[0.5], [math.nan], [math.nan]], costs=costs, order_type="limit", limit_offset_bps=100.0)
    assert ledger.steps.price[0, 0] == pytest.approx(99.0)
    assert ledger.steps.spread[0, 0] == pytest.approx(5e3 * 98.0 * 5e-4 * (0.5e6 / 99.0 / 5e3) / (0.5e6 / 99.0 / 5e3), rel=0.02)
    assert np.abs(ledger.residual()).max() < 1e-12


def test_a_fill_is_the_least_of_order_volume_and_capital(world: Any) -> None:
    rules = build_rules(world.plain, world.free, NS_PER_DAY)
    assert fill_quantity(5.0, 0.0, 10.0, 100.0, 1e6, 0.0, rules)[0] == 5.0
    assert fill_quantity(500.0, 0.0, 10.0, 100.0, 1e6, 0.0, rules)[0] == 100.0
    assert fill_quantity(50.0, 0.0, 10.0, 100.0, 200.0, 0.0, rules)[0] == 20.0
    assert fill_quantity(-50.0, 60.0, 10.0, 100.0, -1e9, 0.0, rules)[0] == 50.0
    assert fill_quantity(-50.0, 30.0, 10.0, 100.0, -300.0, 0.0, rules)[0] == 30.0
    assert fill_quantity(-50.0, 30.0, 10.0, 100.0, 0.0, 0.0, rules)[0] == 50.0


def test_an_order_in_flight_or_still_right_is_not_replaced(world: Any) -> None:
    rules = build_rules(world.plain, world.free, NS_PER_DAY)._replace(retarget_frac=0.1)
    assert not replaces(-5.0, 10.0, False, 1.0, rules)
    assert not replaces(math.nan, 10.0, True, 1.0, rules)
    assert not replaces(10.9, 10.0, True, 1.0, rules)
    assert replaces(11.1, 10.0, True, 1.0, rules)
    assert replaces(-5.0, 10.0, True, 1.0, rules)


@pytest.mark.parametrize("kernel", [impact_frac, fill_quantity, replaces, worst_price, in_lots, limit_price])
def test_the_compiled_kernels_give_what_their_python_gives(world: Any, kernel: Any) -> None:
    rules = build_rules(replace(world.plain, order_type="limit", limit_offset_bps=7.0), world.costly, NS_PER_DAY)
    nan = math.nan
    arguments = {
        "impact_frac": [(q, 0.02, 1e8, rules) for q in (0.0, 3.0, 1e7)],
        "fill_quantity": [
            (w, h, 9.0, 1e3, r, lot, rules) for w in (-7.0, 7e3) for h in (0.0, 5.0) for r in (-30.0, 1e4) for lot in (0.0, 2.0)
        ],
        "replaces": [(d, w, a, 10.0, rules) for d in (nan, 0.0, 4.0) for w in (0.0, 4.0) for a in (True, False)],
        "worst_price": [(q, 9.0, 11.0, close, 10.0) for q in (-1.0, 1.0) for close in (10.0, nan)],
        "in_lots": [(q, lot) for q in (-7.3, 0.0, 300.0) for lot in (0.0, 0.1, 100.0)],
        "limit_price": [(99.3, side, tick, rules) for side in (-1.0, 1.0) for tick in (0.0, 0.05)],
    }[kernel.__name__]
    slow = getattr(kernel, "py_func", kernel)
    with np.errstate(divide="ignore", invalid="ignore"):
        for given_arguments in arguments:
            plain = [np.float64(x) if isinstance(x, float) else x for x in given_arguments]
            assert kernel(*given_arguments) == pytest.approx(slow(*plain), nan_ok=True, rel=1e-15)


def test_the_kernel_names_the_sources_that_are_compiled_into_it() -> None:
    """Numba's cache on disk looks at the kernel's own file only: a change beside it must change a line in it."""
    files = (costs, tiles, records, rulebook, limits, lanes, single, slots, wires, calm, lines, whole, bars, runs)
    digest = hashlib.sha256(b"".join(Path(str(module.__file__)).read_bytes() for module in files)).hexdigest()[:16]
    assert digest == kernels.COMPILED_WITH, f'write COMPILED_WITH = "{digest}" in simulation/kernels.py'
