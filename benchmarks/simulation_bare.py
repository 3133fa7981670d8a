"""The bound of the step kernel: `python benchmarks/simulation_bare.py`. The same arithmetic by hand for one case, nothing around it.

One market that all accounts stand on, market orders good till cancelled, latency by name, rulebook, cap, capital, spread, root
impact, fees with a minimum, funding, borrow, margin, books, no ledger. 64 lanes at a time, short loops over slices, no other
layout, no other order, no reasons. Its equity is checked against the kernel's before anything is timed.
"""

import math
from typing import Any

import numpy as np
from numba import njit
from simulation import CONFIG, COSTS, GUARD, made_market, placed
from timing import cpu_seconds

from plusultra_core.clock import NS_PER_DAY, NS_PER_YEAR

G, M1, M2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S30, S27, S31, S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
CASH, HELD, MARK, WORK, EQUITY, PEAK, WEIGHT, PNL, BEST, STATE, DONE, ASKED, PRICE, FILL, NUM = (64 * k for k in range(15))
OPTIONS = {"cache": True, "error_model": "numpy", "_nrt": False}


@njit(**OPTIONS, forceinline=True)
def guard_by_hand(s: Any, asked: Any, n: int, room: float) -> None:
    """States and limits of `GUARD`; the asset has a bar."""
    for i in range(n):
        fall, old = 1.0 - s[EQUITY + i] / s[PEAK + i], s[STATE + i]
        state = 1.0 if (fall >= 0.5) | ((old == 1.0) & (fall > 0.2)) else 0.0
        state = 2.0 if (fall >= 0.9) | (old == 2.0) else state
        s[STATE + i] = state
    for i in range(n):
        x, weight, state = asked[i], s[WEIGHT + i], s[STATE + i]
        less = min(max(x, min(weight, 0.0)), max(weight, 0.0))
        wide = math.copysign(min(abs(x), 1.0), x)
        base = weight if weight * wide > 0.0 else 0.0
        most = room / s[EQUITY + i]
        far = (abs(wide - base) > most) & (abs(wide) > abs(base))
        wide = base + math.copysign(most, wide) if far else wide
        wide = math.copysign(min(abs(wide), 1.0), wide)
        y = x if x == less else wide
        y = less if state == 1.0 else y
        s[ASKED + i] = 0.0 if state == 2.0 else y


@njit(**OPTIONS, forceinline=True)
def order_by_hand(s: Any, w: Any, key: Any, n: int, now: int, bar: int) -> None:
    """Latencies, and orders that replace what works."""
    for i in range(n):
        x = (np.uint64(key[i]) ^ np.uint64(bar)) + G
        x = (x ^ (x >> S30)) * M1
        x = (x ^ (x >> S27)) * M2
        draw = np.float64((x ^ (x >> S31)) >> S11) * (1.0 / 9007199254740992.0)
        late = 50_000_000 if draw < 0.3 else (250_000_000 if draw < 0.3 + 0.6 else 2_000_000_000)
        held, mark, work, arrival = s[HELD + i], s[MARK + i], s[WORK + i], w[i]
        want = s[ASKED + i] * s[EQUITY + i] / mark - held
        large, busy = abs(want) * mark >= 100.0, work != 0.0
        differs = abs(want - work) > 0.1 * abs(work)
        new = (differs if busy & (want * work > 0.0) else busy | large) & ((arrival <= now) | (not busy)) & (s[DONE + i] == 0.0)
        s[WORK + i] = (want if large else 0.0) if new else work
        w[i] = now + late if new & large else arrival


@njit(**OPTIONS, forceinline=True)
def fill_by_hand(s: Any, w: Any, n: int, now: int, after: int, bar: Any) -> None:
    """Order, volume, capital."""
    first, last, cap = bar[0], bar[3], 0.05 * bar[4]
    for i in range(n):
        held, work, arrival = s[HELD + i], s[WORK + i], w[i]
        price = first + (last - first) * (max(np.float64(arrival - now), 0.0) / np.float64(after - now))
        size = min(abs(work), cap)
        closing = min(size, abs(held)) if held * work < 0.0 else 0.0
        opening = max((2.0 * s[EQUITY + i] - abs(held) * s[MARK + i]) / price + closing, 0.0)
        tight = size - closing > opening
        size = closing + (opening if opening * price >= 100.0 else 0.0) if tight else size
        fill = math.copysign(size, work) if (arrival <= after) & (work != 0.0) else 0.0
        s[PRICE + i] = price
        s[FILL + i] = fill
        s[WORK + i] = work - fill


@njit(**OPTIONS, forceinline=True)
def book_by_hand(s: Any, n: int, bar: Any, years: float, rate: float) -> None:
    """Costs, mark, margin, books."""
    high, low, last, spread, sigma, adv = bar[1], bar[2], bar[3], bar[5], bar[6], abs(bar[7])
    for i in range(n):
        cash, before, old, fill, price = s[CASH + i], s[HELD + i], s[MARK + i], s[FILL + i], s[PRICE + i]
        size, notional, held = abs(fill), abs(fill) * price, before + fill
        impact = min(sigma * math.sqrt(notional / adv), 0.5)
        paid = price * (1.0 + math.copysign(1.0, fill) * (spread + impact))
        fee = max(5e-4 * size * paid, 1.0) if size > 0.0 else 0.0
        last_mark = last if s[DONE + i] == 0.0 else old
        funding, borrow = held * last_mark * rate, (-held * old * 0.005 * years if held < 0.0 else 0.0)
        cash -= fill * paid + fee + funding + borrow
        worst = min(low, last_mark) if held > 0.0 else max(high, last_mark)
        gross = abs(held) * worst
        dead = (gross != 0.0) & (cash + held * worst < 0.1 * gross)
        loss = abs(held) * (abs(last_mark - worst) + 0.005 * worst) if dead else 0.0
        cash += held * last_mark - loss if dead else 0.0
        price_pnl = held * (last_mark - old)
        held = 0.0 if dead else held
        equity = cash + held * last_mark
        pnl = s[PNL + i] + (price_pnl - (notional * (spread + impact) + fill * (price - old) + fee + loss + funding + borrow))
        s[CASH + i] = cash
        s[HELD + i] = held
        s[MARK + i] = last_mark
        s[WORK + i] = 0.0 if dead else s[WORK + i]
        s[DONE + i] = 1.0 if dead else s[DONE + i]
        s[EQUITY + i] = equity
        s[PEAK + i] = max(s[PEAK + i], equity)
        s[WEIGHT + i] = held * last_mark / equity if equity > 0.0 else 0.0
        s[PNL + i] = pnl
        s[BEST + i] = max(s[BEST + i], pnl)


@njit(**OPTIONS)
def run_by_hand(bars: Any, ts_ns: Any, rates: Any, keys: Any, request: Any, mark: float, equity_E: Any, s: Any, w: Any) -> None:
    """All accounts through all bars, 64 at a time. Shapes  bars (T, 8) flat, request (S, E)."""
    num_steps, num_accounts = request.shape
    for low in range(0, num_accounts, 64):
        n = min(64, num_accounts - low)
        s[:] = 0.0
        w[:] = 0
        for i in range(n):
            s[CASH + i] = s[EQUITY + i] = s[PEAK + i] = 1e6
            s[MARK + i] = mark
        key = keys[low : low + n]
        for t in range(num_steps):
            bar = bars[(t + 1) * 8 : (t + 2) * 8]
            guard_by_hand(s, request[t, low : low + n], n, 0.1 * abs(bar[7]))
            order_by_hand(s, w, key, n, ts_ns[t], t)
            fill_by_hand(s, w, n, ts_ns[t], ts_ns[t + 1], bar)
            book_by_hand(s, n, bar, (ts_ns[t + 1] - ts_ns[t]) / NS_PER_YEAR, rates[t + 1])
        equity = equity_E[low : low + n]
        for i in range(n):
            equity[i] = s[EQUITY + i]


def rates(num_accounts: int = 1024, num_steps: int = 1000, repeats: int = 6) -> tuple[float, float]:
    """Millions of account-bars a CPU-second of the loop by hand and of the kernel, in turns; raises where they do not agree."""
    market = made_market(num_steps + 2, 1)
    start = placed(market, num_accounts, 1, True, 1)
    request = np.random.default_rng(2).uniform(-1, 1, (num_steps, num_accounts, 1))
    env = start()
    bars = np.ascontiguousarray(env._world.bars)
    equity, s, w = np.zeros(num_accounts), np.zeros(NUM), np.zeros(64, np.int64)
    keys, flat = env.accounts.key_EA[:, 0].copy(), request[:, :, 0].copy()
    by_hand = (bars, market.ts_ns, market.funding[:, 0].copy(), keys, flat, float(market.close[0, 0]), equity, s, w)
    env.run(request, None, None)
    run_by_hand(*by_hand)
    if not np.allclose(equity, env.accounts.equity_E, rtol=1e-9):
        raise ValueError(f"bare loop: expected the kernel's equity, found {equity[:3]} for {env.accounts.equity_E[:3]}")
    found = [math.inf, math.inf]
    for _ in range(repeats):
        found[0] = min(found[0], cpu_seconds(1, run_by_hand, *by_hand))
        found[1] = min(found[1], cpu_seconds(1, start().run, request, None, None))
    return tuple(num_accounts * num_steps / seconds / 1e6 for seconds in found)  # type: ignore[return-value]


if __name__ == "__main__":
    assert (CONFIG.latency_ms, COSTS.fee_bps, GUARD.max_weight, NS_PER_DAY) == ((50.0, 250.0, 2000.0), 5.0, 1.0, 86_400_000_000_000)
    hand, kernel = rates()
    print(f"bare loop {hand:.1f}, kernel {kernel:.1f}, kernel over bare loop {kernel / hand:.2f}")
