"""What must hold of any run: independence of layout, chunks and threads; what makes a buyer's fill dearer never makes it cheaper."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.simulation.engine import Environment
from plusultra_core.simulation.records import empty_step

HOUR_MS = 3_600_000.0


def rough(world: Any, seed: int = 3) -> Any:
    return world.market(60, 3, seed=seed, gaps=0.1, half_spread_bps=3.0)


def settled(world: Any, num_accounts: int, num_slots: int, num_threads: int = 1, rows: Any = None) -> Environment:
    """Accounts at bars, assets and streams of their own; `rows` picks some of the 200 that there are."""
    rng = np.random.default_rng(0)
    start, asset = rng.integers(0, 15, 200), rng.integers(0, 3, (200, num_slots))
    rows = np.arange(num_accounts) if rows is None else rows
    cfg = replace(
        world.plain, latency_ms=(1.0, 9e7), latency_prob=(0.5, 0.5), participation=0.02, time_in_force="gtc", permanent_coef=0.5,
        permanent_decay_frac=0.1,
    )  # fmt: skip
    env = Environment(rough(world), num_accounts, num_slots, NS_PER_DAY, cfg, world.costly, world.wide, num_threads)
    env.reset(np.arange(num_accounts), start[rows], asset[rows], rows)
    return env


@pytest.mark.parametrize("num_slots", [1, 3])
def test_no_byte_depends_on_layout_chunks_or_threads(world: Any, num_slots: int) -> None:
    request = np.random.default_rng(1).normal(0, 0.4, (40, 200, num_slots))
    whole = settled(world, 200, num_slots)
    steps = empty_step(request.shape)
    whole.run(request, steps, None)
    chunked = settled(world, 200, num_slots)
    for low, high in ((0, 1), (1, 8), (8, 40)):
        chunked.run(request[low:high], None, None)
    threaded = settled(world, 200, num_slots, num_threads=3)
    threaded.run(request, None, None)
    order = np.random.default_rng(2).permutation(200)[:77]
    some = settled(world, 77, num_slots, rows=order)
    last = empty_step(request[0, order].shape)
    some.run(np.ascontiguousarray(request[:, order]), last, None)
    for name, expected in whole.accounts._asdict().items():
        for env, rows in ((chunked, slice(None)), (threaded, slice(None)), (some, order)):
            assert np.array_equal(getattr(env.accounts, name), expected[rows], equal_nan=True), name
    for name, expected in steps._asdict().items():
        assert np.array_equal(getattr(last, name), expected[-1, order], equal_nan=True), name


def test_the_ledger_of_a_run_is_that_of_its_steps(world: Any) -> None:
    request = np.random.default_rng(1).normal(0, 0.4, (40, 70, 3))
    steps, books = empty_step(request.shape), np.zeros((40, 70, 4))
    settled(world, 70, 3).run(request, steps, books)
    env = settled(world, 70, 3)
    for t in range(40):
        step = env.step(request[t])
        for name in step._fields:
            assert np.array_equal(getattr(step, name), getattr(steps, name)[t], equal_nan=True), name
        assert np.array_equal(books[t, :, 1], env.accounts.equity_E)
        assert np.array_equal(books[t, :, 3], env.accounts.guard_E)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), participation=st.sampled_from([1e-3, 0.1, 1.0]), hours=st.sampled_from([0.0, 5.0, 40.0]))
def test_the_ledger_balances_fills_fit_and_nothing_fills_before_it_arrives(
    world: Any, seed: int, participation: float, hours: float
) -> None:
    market = rough(world, seed)
    targets = np.random.default_rng(seed).normal(0, 0.5, (59, 3))
    ledger = world.run(
        market, targets, costs=world.costly, participation=participation, latency_ms=(hours * HOUR_MS,), time_in_force="gtc",
        permanent_coef=2.0, permanent_decay_frac=0.2,
    )  # fmt: skip
    steps = ledger.steps
    assert np.abs(ledger.residual()).max() < 1e-9
    assert np.all(np.abs(steps.fill) <= np.minimum(np.abs(steps.order), participation * market.volume[1:]) * (1 + 1e-12))
    filled = steps.fill != 0
    close = np.broadcast_to(ledger.ts_ns[1:, None], filled.shape)
    assert np.all(steps.arrival[filled] <= close[filled])
    assert np.all(steps.arrival[filled] >= market.ts_ns[steps.decision[filled]] + int(hours * HOUR_MS * 1e6))


def buyers_price(world: Any, weight: float = 0.3, volume: float = 1.0, spread_bps: float = 3.0, hours: float = 12.0) -> float:
    """What a buyer pays for a unit, fees included, in a market that rises by 1 % a day."""
    close = 100.0 * 1.01 ** np.arange(12.0)[:, None]
    market = world.market(12, 1, half_spread_bps=spread_bps)
    market = market._replace(
        open=np.vstack((close[:1], close[:-1])), close=close, high=close * 1.01, low=close * 0.98,
        adv_ccy=np.full((12, 1), 5e7 * volume), volume=np.full((12, 1), 2000.0 * volume),
    )  # fmt: skip
    ledger = world.run(market, [[weight], *[[np.nan]] * 10], costs=world.costly, latency_ms=(hours * HOUR_MS,), time_in_force="gtc")
    return float((ledger.steps.fill * ledger.steps.price + ledger.steps.fees).sum() / ledger.steps.fill.sum())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("weight", (0.01, 0.1, 0.2, 0.5)),
        ("volume", (4.0, 2.0, 1.0, 0.4)),
        ("spread_bps", (0.0, 2.0, 5.0, 50.0)),
    ],
)
def test_more_size_less_volume_or_a_wider_spread_never_make_a_buyers_fill_cheaper(world: Any, name: str, values: Any) -> None:
    prices = [buyers_price(world, **{name: value}) for value in values]
    assert prices == sorted(prices)
    assert prices[0] < prices[-1]


def test_more_variance_of_the_latency_never_makes_a_buyers_fill_cheaper(world: Any) -> None:
    """Around the same mean of 36 hours, on a path that bends upward: late fills cost more than early ones save."""
    pairs = [(36.0 - spread, 36.0 + spread) for spread in (0.0, 6.0, 12.0, 24.0, 36.0)]
    prices = [float(np.mean([buyers_price(world, weight=0.05, hours=hours) for hours in pair])) for pair in pairs]
    assert all(later >= earlier * (1 - 1e-9) for earlier, later in pairwise(prices))
    assert prices[-1] > prices[0]


def test_equity_is_that_of_vectorbt(world: Any) -> None:
    """Proportional fees and fixed slippage at the close; no latency, no cap."""
    vbt = pytest.importorskip("vectorbt")
    market = world.market(300, 4, seed=2, half_spread_bps=2.0)
    market = market._replace(open=market.close.copy(), high=market.close * 1.01, low=market.close * 0.99, volume=np.full((300, 4), 1e15))
    targets = np.random.default_rng(0).uniform(-0.2, 0.2, (299, 4))
    costs = replace(world.free, fee_bps=5.0)
    for n in range(4):
        alone = market._replace(**{k: np.ascontiguousarray(getattr(market, k)[:, n : n + 1]) for k in WIDE_FIELDS}, **narrow(market, n))
        ledger = world.run(alone, targets[:, n : n + 1], costs=costs)
        quantity = ledger.steps.fill[:, 0]
        peer = vbt.Portfolio.from_orders(alone.close[1:, 0], size=quantity, fees=5e-4, slippage=2e-4, init_cash=1e6, freq="1D")
        assert np.allclose(peer.value().to_numpy(), ledger.equity[1:], rtol=1e-9)


BARS = ("open", "high", "low", "close", "volume", "funding", "tradable", "proxy")
WIDE_FIELDS = (*BARS, "sigma", "adv_ccy", "half_spread_bps", "dividend", "depth", "translation")


def narrow(market: Any, n: int) -> dict[str, Any]:
    """The terms of one asset."""
    return {name: getattr(market, name)[n : n + 1] for name in ("lot", "tick", "end", "terminal_ret", "conversion_bps", "margined")}
