"""The execution model in plain Python: the specification that the kernel is held to. It imports nothing of the simulator but words.

One object is one account. It knows its orders by slot, draws its own latencies, applies the rulebook and says of every step
what the kernel's `Step` says. Nothing here is fast, and nothing is shared with `kernels.py`.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from plusultra_core.clock import NS_PER_YEAR
from plusultra_core.guardrails import limits as book
from plusultra_core.simulation import records as word

MASK = (1 << 64) - 1
NAN = float("nan")


def mix(x: int) -> int:
    """splitmix64."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def uniform(*names: int) -> float:
    """A number in [0, 1) out of its names."""
    key = 0
    for name in names:
        key = mix(((key ^ name) + 0x9E3779B97F4A7C15) & MASK)
    return (key >> 11) / 9007199254740992.0


@dataclass
class Order:
    """What is still to be traded."""

    left: float
    decision: int
    arrival_ns: int
    limit: float


@dataclass
class Slot:
    """One asset of an account."""

    asset: int
    mark: float
    held: float = 0.0
    pnl: float = 0.0
    pnl_peak: float = 0.0
    shift: float = 0.0
    order: Order | None = None


@dataclass
class Account:
    """One account on one market."""

    market: Any
    rules: Any
    limits: Any
    seed: int
    latency_ns: list[int]
    latency_cumulative: list[float]
    capital: float
    t: int
    stream: int
    assets: list[int]
    state: int = book.ACTIVE
    done: bool = False
    slots: list[Slot] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cash = self.equity = self.peak = self.capital
        self.slots = [Slot(n, self.last_close(n)) for n in self.assets]

    def last_close(self, n: int) -> float:
        """Close of the last bar at or before now."""
        if self.t >= self.market.end[n]:
            return NAN
        seen = [float(c) for c in self.market.close[: self.t + 1, n] if not math.isnan(c)]
        return seen[-1] if seen else NAN

    def weight(self, slot: Slot) -> float:
        """Part of equity that a slot holds."""
        return slot.held * slot.mark / self.equity if slot.held and self.equity > 0 else 0.0

    # ---- the rulebook

    def guarded(self, request: list[float]) -> list[tuple[float, int]]:
        """Targets and reasons."""
        lim = self.limits
        known, state = self.judge()
        found = [self.limited(slot, float(r), state) for slot, r in zip(self.slots, request, strict=True)]
        if not known:
            found = [(x, book.NO_EQUITY if why == book.STATE_REDUCING else why) for x, why in found]
        for rule, limit, size in ((book.MAX_GROSS, lim.max_gross, abs), (book.MAX_NET, lim.max_net, float)):
            held = sum(size(self.weight(s)) for s, (x, _) in zip(self.slots, found, strict=True) if math.isnan(x))
            asked = sum(size(x) for x, _ in found if not math.isnan(x))
            if abs(held + asked) <= limit * (1.0 + 1e-12) or asked == 0:
                continue
            scale = min(max((math.copysign(limit, held + asked) - held) / asked, 0.0), 1.0)
            found = [(x * scale, rule) if not math.isnan(x) and x != 0 and scale < 1 else (x, why) for x, why in found]
        return found

    def judge(self) -> tuple[bool, int]:
        """Whether equity is known, and the state that decides; the account's own moves only where it is."""
        known = math.isfinite(self.equity) and self.equity > 0 and math.isfinite(self.peak)
        if known or self.state == book.HALTED:
            self.state = self.next_state()
            return known, self.state
        return known, book.REDUCING

    def next_state(self) -> int:
        """Active, reducing, halted."""
        lim = self.limits
        fall = 1.0 - self.equity / self.peak if self.peak > 0 else 1.0
        if self.state == book.HALTED or (fall >= lim.halt_drawdown and fall > 0):
            return book.HALTED
        if (fall >= lim.reduce_drawdown and fall > 0) or (self.state == book.REDUCING and fall > lim.resume_drawdown):
            return book.REDUCING
        return book.ACTIVE

    def limited(self, slot: Slot, target: float, state: int) -> tuple[float, int]:
        """One target by itself."""
        lim, weight = self.limits, self.weight(slot)
        if state == book.HALTED:
            return 0.0, book.STATE_HALTED if target != 0 or weight != 0 else book.NONE
        if math.isnan(target):
            return target, book.NONE
        if math.isinf(target):
            return NAN, book.NOT_FINITE
        reduced = min(max(target, min(weight, 0.0)), max(weight, 0.0))
        if target == reduced:
            return target, book.NONE
        if state == book.REDUCING:
            return reduced, book.STATE_REDUCING
        if not self.market.tradable[self.t, slot.asset]:
            return reduced, book.STALE_PRICE
        why = book.NONE
        if abs(target) > lim.max_weight:
            target, why = math.copysign(lim.max_weight, target), book.MAX_WEIGHT
        start = weight if weight * target > 0 else 0.0
        room = lim.max_participation * float(self.market.adv_ccy[self.t, slot.asset]) / self.equity
        if abs(target) > abs(start) and abs(target - start) > room:
            target, why = start + math.copysign(room, target) if room > 0 else start, book.MAX_PARTICIPATION
        return target, why

    # ---- one step

    def step(self, request: list[float]) -> list[dict[str, float]]:
        """From the close of bar t to that of bar t + 1; one row a slot."""
        rows = [self.blank(slot) for slot in self.slots]
        if self.done:  # nothing is traded any more, but the state of the account goes on to be judged
            self.judge()
            self.t += 1
            return rows
        guarded = self.guarded(request)
        for slot, row, asked, (target, why) in zip(self.slots, rows, request, guarded, strict=True):
            row["target"], row["guard"] = target, why
            self.place(slot, row, float(asked))
        self.room = self.rules.max_leverage * self.equity - sum(abs(s.held) * s.mark for s in self.slots if s.held)
        for opening in (False, True):
            for slot, row in zip(self.slots, rows, strict=True):
                order = slot.order
                if order and row["status"] == word.NO_ORDER and (abs(slot.held + order.left) > abs(slot.held)) == opening:
                    self.meet(slot, order, row)
        for slot, row in zip(self.slots, rows, strict=True):
            self.settle(slot, row)
            slot.shift *= 1.0 - self.rules.permanent_decay_frac
        self.liquidate(rows)
        self.close(rows)
        self.t += 1
        return rows

    def blank(self, slot: Slot) -> dict[str, float]:
        """A row in which nothing happened."""
        names = ("target", "guard", "order", "fill", "price", "status", "reason", "price_pnl", *word.COSTS, "liquidation")
        return {**dict.fromkeys(names, 0), "decision": -1, "arrival": 0, "position": slot.held, "mark": slot.mark}

    def place(self, slot: Slot, row: dict[str, float], asked: float) -> None:
        """The working order after the decision of bar t, or why there is none."""
        rules, order, now = self.rules, slot.order, int(self.market.ts_ns[self.t])
        desired = self.lots(slot, row["target"] * self.equity / slot.mark - slot.held)
        left = order.left if order else 0.0
        if math.isnan(desired) and self.state != book.ACTIVE and abs(slot.held + left) > abs(slot.held):
            desired = 0.0
        sendable = desired != 0 and abs(desired) * slot.mark >= rules.min_order_ccy
        if math.isnan(desired) or (order and order.arrival_ns > now):
            replace = False
        elif order and desired * order.left > 0:
            replace = abs(desired - order.left) > rules.retarget_frac * abs(order.left)
        else:
            replace = order is not None or sendable
        if replace:
            slot.order = None
            if sendable:
                slot.order = Order(desired, self.t, now + self.latency(slot), self.limit(slot, desired))
        if slot.order or math.isnan(asked):
            return
        priced = slot.mark > 0
        wanted = asked * self.equity / slot.mark - slot.held if priced else asked
        if not priced and wanted != 0:
            row["reason"] = word.NO_PRICE
        elif row["guard"] and abs(wanted) * slot.mark >= rules.min_order_ccy:
            row["reason"] = row["guard"]
        else:
            row["reason"] = word.TOO_SMALL if wanted != 0 else word.NO_ORDER
            return
        row.update(status=word.REJECTED, order=wanted if priced else 0.0, decision=self.t, arrival=now)

    def lots(self, slot: Slot, quantity: float) -> float:
        """Whole lots, towards zero."""
        lot = float(self.market.lot[slot.asset])
        return math.copysign(math.floor(abs(quantity) / lot + 1e-9) * lot, quantity) if lot and not math.isnan(quantity) else quantity

    def limit(self, slot: Slot, desired: float) -> float:
        """The limit on the passive side, on a tick; NaN for market orders."""
        tick = float(self.market.tick[slot.asset])
        limit = slot.mark * (1.0 - math.copysign(self.rules.limit_offset_frac, desired))
        if not tick or math.isnan(limit):
            return limit
        return math.floor(limit / tick + 1e-9) * tick if desired > 0 else math.ceil(limit / tick - 1e-9) * tick

    def latency(self, slot: Slot) -> int:
        """Drawn by name: seed, stream, asset, bar."""
        draw = uniform(self.seed, self.stream, slot.asset, self.t)
        passed = sum(draw >= c for c in self.latency_cumulative[:-1])
        return int(self.latency_ns[passed])

    def meet(self, slot: Slot, order: Order, row: dict[str, float]) -> None:
        """One order in bar t + 1."""
        m, n, next_ns = self.market, slot.asset, int(self.market.ts_ns[self.t + 1])
        row.update(order=order.left, decision=order.decision, arrival=order.arrival_ns)
        if m.end[n] == self.t + 1:
            slot.order = None
            row.update(status=word.CANCELLED, reason=word.DELISTED)
            return
        if order.arrival_ns > next_ns:
            row.update(status=word.CARRIED, reason=word.IN_FLIGHT)
            return
        if not m.tradable[self.t + 1, n]:
            self.end(slot, order, row, word.NO_BAR)
            return
        side = math.copysign(1.0, order.left)
        price, spread, takes = self.reference(order, n, side)
        if price is None:
            self.end(slot, order, row, word.NOT_TRADED_THROUGH)
            return
        dear = self.dear(slot, order, price, spread)
        least = self.rules.fee_min_ccy if self.rules.pays else 0.0
        quantity, why = self.quantity(slot, order, dear, self.room - least)
        if quantity > 0:
            fill = order.left if why == word.NO_ORDER else side * quantity
            notional = quantity * price
            impact = self.impact(notional, n) if takes else 0.0
            if takes and not math.isnan(order.limit):
                impact = min(impact, (order.limit / price - 1.0) * side - spread)
            push = side * self.rules.permanent_coef * float(m.sigma[self.t, n]) * notional / float(m.adv_ccy[self.t, n])
            after = min(max(slot.shift + push, -0.2), 0.2)
            met = (slot.shift + after) / 2.0
            slot.shift = after
            paid = price * (1.0 + side * (spread + impact) + met)
            row.update(fill=fill, price=paid, spread=notional * spread, impact=notional * impact + fill * price * met)
            row["latency_drift"] = fill * (price - slot.mark)
            row["fees"] = self.fee(quantity * paid, takes)
            opens = abs(slot.held + order.left) > abs(slot.held)
            self.room -= (abs(slot.held + fill) - abs(slot.held)) * (dear if opens else 2.0 * price - dear) + least
            slot.held += fill
        self.end(slot, order, row, why)

    def fee(self, notional: float, takes: bool) -> float:
        """Who takes pays the fee, who rested the maker's; a rebate has no minimum."""
        rate = self.rules.fee_frac if takes else self.rules.maker_fee_frac
        return rate * notional if rate < 0 else max(rate * notional, self.rules.fee_min_ccy)

    def reference(self, order: Order, n: int, side: float) -> tuple[float | None, float, bool]:
        """The price before costs, None where a limit is not traded through; the half spread; whether it takes."""
        m, t = self.market, self.t + 1
        first, last = float(m.open[t, n]), float(m.close[t, n])
        opened = not math.isnan(first)
        start_ns = max(int(m.ts_ns[t - 1]), int(m.ts_ns[t]) - self.rules.bar_ns)
        late_ns = max(order.arrival_ns - start_ns, 0)
        point = first + (last - first) * (late_ns / (int(m.ts_ns[t]) - start_ns)) if opened else last
        spread = max(float(m.half_spread_bps[t - 1, n]) * 1e-4, 0.5 * float(m.tick[n]) / point)
        fresh = order.decision == self.t or order.arrival_ns > int(m.ts_ns[t - 1])
        if math.isnan(order.limit) or (fresh and opened and (order.limit - point * (1.0 + side * spread)) * side > 0):
            return point, spread, True
        best = float(m.low[t, n] if side > 0 else m.high[t, n]) if opened else last
        if (order.limit - best) * side <= 0 or self.rules.time_in_force == word.IOC:
            return None, 0.0, False
        if late_ns > 0 or not opened:
            return order.limit, 0.0, False
        return min(order.limit * side, first * side) * side, 0.0, False

    def dear(self, slot: Slot, order: Order, price: float, spread: float) -> float:
        """What a unit takes of the room at most: its costs are not lent in cash."""
        if not self.rules.pays:
            return price
        m, n, rules = self.market, slot.asset, self.rules
        cap = min(rules.participation * float(m.volume[self.t + 1, n]), float(m.depth[self.t, n]))
        notional = min(abs(order.left), cap) * price
        sigma, adv = float(m.sigma[self.t, n]), float(m.adv_ccy[self.t, n])
        push = min(abs(slot.shift) + 0.5 * rules.permanent_coef * sigma * notional / adv, 0.2)
        return price * (1.0 + spread + self.impact(notional, n) + push) * (1.0 + rules.fee_frac)

    def quantity(self, slot: Slot, order: Order, price: float, room: float) -> tuple[float, int]:
        """Order, volume, capital: the least of them."""
        quantity, why = abs(order.left), word.NO_ORDER
        cap = self.rules.participation * float(self.market.volume[self.t + 1, slot.asset])
        cap = min(cap, float(self.market.depth[self.t, slot.asset]))
        if quantity > cap:
            quantity, why = cap, word.CAPACITY if cap > 0 else word.NO_VOLUME
        closing = min(quantity, abs(slot.held)) if slot.held * order.left < 0 else 0.0
        opening = max(room / price + closing, 0.0)
        if quantity - closing > opening:
            quantity, why = closing + (opening if opening * price >= self.rules.min_order_ccy else 0.0), word.CAPITAL
        return quantity if why == word.NO_ORDER else self.lots(slot, quantity), why

    def impact(self, notional: float, n: int) -> float:
        """Y sigma (q / V) ** delta."""
        rules, m = self.rules, self.market
        raw = rules.impact_coef * float(m.sigma[self.t, n]) * (notional / float(m.adv_ccy[self.t, n])) ** rules.impact_exponent
        return min(raw, rules.max_impact_frac)

    def end(self, slot: Slot, order: Order, row: dict[str, float], why: int) -> None:
        """Filled, carried or cancelled."""
        force, over = self.rules.time_in_force, bool(self.market.session_end[self.t + 1])
        row["reason"] = why
        if why == word.NO_ORDER:
            row["status"], slot.order = word.FILLED, None
        elif force == word.GTC or (force == word.DAY and not over):
            row["status"], order.left = word.CARRIED, order.left - row["fill"]
        else:
            row["status"], slot.order = word.PARTIAL if row["fill"] else word.CANCELLED, None
            row["reason"] = word.EXPIRED if force == word.DAY else why

    def settle(self, slot: Slot, row: dict[str, float]) -> None:
        """To the close of bar t + 1."""
        m, n, old = self.market, slot.asset, slot.mark
        ends = m.end[n] == self.t + 1
        if m.tradable[self.t + 1, n]:
            slot.mark = float(m.close[self.t + 1, n])
        elif ends:
            slot.mark = old * (1.0 + float(m.terminal_ret[n]))
        row["mark"] = slot.mark
        if slot.held:
            row["price_pnl"] = slot.held * (slot.mark - old)
            row["funding"] = slot.held * slot.mark * float(m.funding[self.t + 1, n]) if self.rules.funding else 0.0
        if slot.held < 0:
            years = (int(m.ts_ns[self.t + 1]) - int(m.ts_ns[self.t])) / NS_PER_YEAR
            row["borrow"] = -slot.held * old * self.rules.borrow_frac_year * years
        row["funding"] -= row["position"] * float(m.dividend[self.t + 1, n])
        self.cash -= row["fill"] * row["price"] + row["fees"] + row["funding"] + row["borrow"]
        if ends:
            self.cash += slot.held * slot.mark if slot.held else 0.0
            slot.held, slot.mark = 0.0, NAN

    def worst(self, slot: Slot) -> float:
        """The price of the bar that hurts most."""
        m, t, n = self.market, self.t + 1, slot.asset
        if not m.tradable[t, n]:
            return slot.mark
        return min(float(m.low[t, n]), slot.mark) if slot.held > 0 else max(float(m.high[t, n]), slot.mark)

    def liquidate(self, rows: list[dict[str, float]]) -> None:
        """The end of an account that cannot carry what it holds."""
        gross = sum(abs(s.held) * self.worst(s) for s in self.slots if s.held)
        if not gross or self.cash + sum(s.held * self.worst(s) for s in self.slots if s.held) >= self.rules.maintenance_margin * gross:
            return
        self.done = True
        for slot, row in zip(self.slots, rows, strict=True):
            if slot.held:
                worst = self.worst(slot)
                loss = abs(slot.held) * (abs(slot.mark - worst) + self.rules.liquidation_penalty_frac * worst)
                self.cash += slot.held * slot.mark - loss
                row["liquidation"] = loss
                row["fees"] += loss
                row["reason"] = word.LIQUIDATED
                slot.held = 0.0
            slot.order = None
            if row["status"] == word.CARRIED:
                row.update(status=word.CANCELLED, reason=word.LIQUIDATED)

    def close(self, rows: list[dict[str, float]]) -> None:
        """The books at the close of bar t + 1."""
        for slot, row in zip(self.slots, rows, strict=True):
            row["position"] = slot.held
            slot.pnl += row["price_pnl"] - sum(row[name] for name in word.COSTS)
            slot.pnl_peak = max(slot.pnl_peak, slot.pnl)
        self.equity = self.cash + sum(s.held * s.mark for s in self.slots if s.held)
        self.peak = max(self.peak, self.equity)
