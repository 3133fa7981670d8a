"""Orders on tensors, as the step kernel has them: placed, quoted, filled."""

from typing import NamedTuple

import torch
from torch import Tensor

from plusultra_core.guardrails.limits import ACTIVE
from plusultra_core.simulation import records as word
from plusultra_core.simulation.costs import MAX_SHIFT, Rules
from plusultra_core.simulation.twin.records import KNOWN, TensorAccounts, TensorMarket
from plusultra_core.simulation.twin.rulebook import Guarded


class Bar(NamedTuple):
    """What the step reads, (E, A) each, (E,) the times: the bar that comes, and what was known at the decision."""

    now: Tensor
    after: Tensor
    session_end: Tensor
    open: Tensor
    high: Tensor
    low: Tensor
    close: Tensor
    volume: Tensor
    funding: Tensor
    dividend: Tensor
    sigma: Tensor
    adv: Tensor
    depth: Tensor
    spread: Tensor
    lot: Tensor
    tick: Tensor
    terminal_ret: Tensor
    opened: Tensor
    trades: Tensor
    fresh: Tensor
    """Whether the asset had a bar at the decision."""
    ends: Tensor


def read_bar(market: TensorMarket, accounts: TensorAccounts) -> Bar:
    """The rows of the market that a step from bar t to t + 1 sees."""
    t = accounts.t.clamp(max=market.ts_ns.numel() - 2)[:, None]
    n, then = accounts.asset, accounts.t.clamp(max=market.ts_ns.numel() - 2)[:, None] + 1
    bars = {name: array[then, n] for name, array in market.bars.items() if name not in KNOWN}
    return Bar(
        now=market.ts_ns[t],
        after=market.ts_ns[then],
        session_end=market.session_end[then],
        sigma=market.bars["sigma"][t, n],
        adv=market.bars["adv_ccy"][t, n],
        depth=market.bars["depth"][t, n],
        spread=market.half_spread[t, n],
        lot=market.lot[n],
        tick=market.tick[n],
        terminal_ret=market.terminal_ret[n],
        opened=market.opened[then, n],
        trades=market.tradable[then, n],
        fresh=market.tradable[t, n],
        ends=market.end[n] == then,
        **bars,
    )


class Placed(NamedTuple):
    """Working orders after the decision, and which requests became none."""

    working: Tensor
    limit: Tensor
    arrival: Tensor
    decision: Tensor
    refused: Tensor
    wanted: Tensor
    reason: Tensor
    """Of those without a working order."""


def in_lots(quantity: Tensor, lot: Tensor) -> Tensor:
    """The part of a quantity that is whole lots."""
    unit = torch.where(lot > 0, lot, 1.0)
    return torch.where(lot > 0, torch.copysign((quantity.abs() / unit + 1e-9).floor() * unit, quantity), quantity)


def place_orders(accounts: TensorAccounts, guarded: Guarded, request: Tensor, latency: Tensor, bar: Bar, rules: Rules) -> Placed:
    """Turn the guarded targets into working orders, or say why there is none."""
    held, working = accounts.held, accounts.working
    live, money = ~accounts.done[:, None], accounts.equity[:, None]
    priced = accounts.mark > 0
    mark = torch.where(priced, accounts.mark, 1.0)
    desired = in_lots(guarded.target * money / mark - held, bar.lot)
    unknown = guarded.hold | ~priced | ~live
    back = unknown & (guarded.state[:, None] != ACTIVE) & ((held + working).abs() > held.abs())
    desired = torch.where(unknown, 0.0, desired)
    unknown = unknown & ~back
    large = ~unknown & (desired.abs() * mark >= rules.min_order_ccy)
    sent = large & (desired != 0)
    busy, arrived = working != 0, accounts.arrival <= bar.now
    differs = (desired - working).abs() > rules.retarget_frac * working.abs()
    asks = torch.where(busy & (desired * working > 0), differs, busy | large)
    new = asks & ~unknown & (arrived | ~busy)
    fresh = new & sent
    working = torch.where(new, torch.where(sent, desired, 0.0), working)
    t = accounts.t[:, None].expand_as(accounts.asset)
    decision = torch.where(new, torch.where(sent, t, -1), accounts.decision)
    limit = torch.where(fresh, _limit_price(mark, desired, bar.tick, rules), accounts.limit)
    arrival = torch.where(fresh, bar.now + latency, accounts.arrival)
    asked = ~torch.isnan(request) & live
    calm = torch.where(asked, request, 0.0)
    wanted = torch.where(priced, calm * money / mark - held, calm)
    why = torch.where(priced & (wanted.abs() * mark >= rules.min_order_ccy), guarded.reason, 0)
    why = torch.where(priced | (wanted == 0), why, word.NO_PRICE)
    idle = (working == 0) & asked
    refused = idle & (why != 0)
    small = torch.where(wanted != 0, word.TOO_SMALL, word.NO_ORDER)
    reason = torch.where(idle, torch.where(refused, why, small), word.NO_ORDER)
    return Placed(working, limit, arrival, decision, refused, torch.where(refused & priced, wanted, 0.0), reason)


def _limit_price(mark: Tensor, desired: Tensor, tick: Tensor, rules: Rules) -> Tensor:
    side = torch.where(desired < 0, -1.0, 1.0).to(mark.dtype)
    limit = mark * (1.0 - rules.limit_offset_frac * side)
    step = torch.where(tick > 0, tick, 1.0)
    return torch.where(tick > 0, side * (side * limit / step + 1e-9).floor() * step, limit)


class Quote(NamedTuple):
    """Price that a working order meets before costs, whether it takes, half spread, and why it meets none."""

    price: Tensor
    takes: Tensor
    spread: Tensor
    why: Tensor


def quote(placed: Placed, t: Tensor, bar: Bar, rules: Rules) -> Quote:
    """See `kernels.quote`: the open for who waits, the line from open to close within the bar, limits that the bar trades through."""
    dtype = bar.close.dtype
    side = torch.where(placed.working < 0, -1.0, 1.0).to(dtype)
    start = torch.maximum(bar.now, bar.after - rules.bar_ns)
    late = (placed.arrival - start).clamp(min=0)
    part = late.to(dtype) / (bar.after - start).to(dtype)
    point = torch.where(bar.opened, bar.open + (bar.close - bar.open) * part, bar.close)
    spread = torch.maximum(bar.spread, 0.5 * bar.tick / point)
    market_order = torch.isnan(placed.limit)
    limit = torch.where(market_order, point, placed.limit)
    fresh = (placed.decision == t[:, None]) | (placed.arrival > bar.now)
    takes = market_order | (fresh & bar.opened & ((limit - point * (1.0 + side * spread)) * side > 0))
    extreme = torch.where(bar.opened, torch.where(side > 0, bar.low, bar.high), bar.close)
    rests = (limit - extreme) * side > 0
    met = takes if rules.time_in_force == word.IOC else takes | rests
    better = torch.minimum(limit * side, bar.open * side) * side
    resting = torch.where((late > 0) | ~bar.opened, limit, better)
    why = torch.where(met, word.NO_ORDER, word.NOT_TRADED_THROUGH)
    why = torch.where(bar.trades, why, word.NO_BAR)
    why = torch.where(placed.arrival > bar.after, word.IN_FLIGHT, why)
    why = torch.where(bar.ends, word.DELISTED, why)
    return Quote(torch.where(takes, point, resting), takes, spread, why)


class Filled(NamedTuple):
    """What became of every order."""

    held: Tensor
    working: Tensor
    decision: Tensor
    fill: Tensor
    order: Tensor
    status: Tensor
    reason: Tensor
    sent: Tensor
    arrived: Tensor


def fill_orders(accounts: TensorAccounts, placed: Placed, quoted: Quote, bar: Bar, rules: Rules) -> Filled:
    """Fill what the bar, the volume and the capital allow; what frees capital goes first, slot by slot."""
    mark = torch.where(accounts.mark > 0, accounts.mark, 1.0)
    room = rules.max_leverage * accounts.equity - (accounts.held.abs() * mark).sum(dim=1)
    t = accounts.t[:, None].expand_as(accounts.asset)
    start = Filled(
        held=accounts.held,
        working=placed.working,
        decision=placed.decision,
        fill=torch.zeros_like(placed.working),
        order=placed.wanted,
        status=torch.where(placed.refused, word.REJECTED, word.NO_ORDER),
        reason=placed.reason,
        sent=torch.where(placed.refused, t, -1),
        arrived=torch.where(placed.refused, bar.now.expand_as(t), 0),
    )
    num_slots = accounts.asset.shape[1]
    columns = [Filled._make(field[:, a] for field in start) for a in range(num_slots)]
    sweeps = ((True, False),) if num_slots == 1 else ((False, False), (False, True))
    for everything, opening in sweeps:
        for a in range(num_slots):
            order, met = Placed._make(x[:, a] for x in placed), Quote._make(x[:, a] for x in quoted)
            columns[a], room = _fill_slot(columns[a], room, order, met, accounts.shift[:, a], bar, a, everything, opening, rules)
    return Filled._make(torch.stack(parts, dim=1) for parts in zip(*columns, strict=True))


def _fill_slot(
    s: Filled,
    room: Tensor,
    placed: Placed,
    quoted: Quote,
    shift: Tensor,
    bar: Bar,
    a: int,
    everything: bool,
    opening: bool,
    rules: Rules,
) -> tuple[Filled, Tensor]:
    working, held, price, why = s.working, s.held, quoted.price, quoted.why
    mine = (working != 0) & (s.status == word.NO_ORDER)
    if not everything:
        mine = mine & (((held + working).abs() > held.abs()) == opening)
    cap = torch.minimum(rules.participation * bar.volume[:, a], bar.depth[:, a])
    dear = _dear_price(working, quoted, shift, cap, bar, a, rules) if rules.pays else price
    least = rules.fee_min_ccy if rules.pays else 0.0
    quantity, bound = _fill_quantity(working, held, dear, cap, room - least, bar.lot[:, a], rules)
    met = why == word.NO_ORDER
    whole = met & (bound == word.NO_ORDER)
    some = torch.where(met & (quantity > 0), torch.copysign(quantity, working), 0.0)
    filled = torch.where(whole, working, some)
    waits, delisted = why == word.IN_FLIGHT, why == word.DELISTED
    over = bar.session_end[:, 0] if rules.time_in_force == word.DAY else torch.zeros_like(met)
    keeps = ~delisted & (~over if rules.time_in_force in (word.DAY, word.GTC) else torch.zeros_like(met))
    carried = waits | keeps
    ended = torch.where(filled != 0, word.PARTIAL, word.CANCELLED)
    ended = torch.where(whole, word.FILLED, torch.where(carried, word.CARRIED, ended))
    cause = torch.where(met, bound, why)
    cause = torch.where(over & ~(whole | waits | delisted), word.EXPIRED, cause)
    left = torch.where(carried & ~whole, working - filled, 0.0)
    taken = ((held + filled).abs() - held.abs()) * (dear if opening else 2.0 * price - dear) + least
    new = Filled(
        held=torch.where(mine, held + filled, held),
        working=torch.where(mine, left, working),
        decision=torch.where(mine & (left == 0), -1, s.decision),
        fill=torch.where(mine, filled, s.fill),
        order=torch.where(mine, working, s.order),
        status=torch.where(mine, ended, s.status),
        reason=torch.where(mine, cause, s.reason),
        sent=torch.where(mine, placed.decision, s.sent),
        arrived=torch.where(mine, placed.arrival, s.arrived),
    )
    return new, torch.where(mine & (filled != 0), room - taken, room)


def _dear_price(working: Tensor, quoted: Quote, shift: Tensor, cap: Tensor, bar: Bar, a: int, rules: Rules) -> Tensor:
    """What a unit of an order takes of the room at most, with all costs but the least fee, as `costs.dear_price` has it."""
    notional = torch.minimum(working.abs(), cap) * quoted.price
    share = notional / bar.adv[:, a]
    impact = (rules.impact_coef * bar.sigma[:, a] * share**rules.impact_exponent).clamp(max=rules.max_impact_frac)
    push = (shift.abs() + 0.5 * rules.permanent_coef * bar.sigma[:, a] * share).clamp(max=MAX_SHIFT)
    spread = torch.where(quoted.takes, quoted.spread, 0.0)
    return quoted.price * (1.0 + spread + impact + push) * (1.0 + rules.fee_frac)


def _fill_quantity(
    working: Tensor, held: Tensor, price: Tensor, cap: Tensor, room: Tensor, lot: Tensor, rules: Rules
) -> tuple[Tensor, Tensor]:
    order = working.abs()
    short = order > cap
    quantity = torch.where(short, cap, order)
    closing = torch.where(held * working < 0, torch.minimum(quantity, held.abs()), 0.0)
    opening = (room / price + closing).clamp(min=0.0)
    tight = quantity - closing > opening
    worth = torch.where(opening * price >= rules.min_order_ccy, opening, 0.0)
    quantity = torch.where(tight, closing + worth, quantity)
    reason = torch.where(short, torch.where(cap > 0, word.CAPACITY, word.NO_VOLUME), word.NO_ORDER)
    reason = torch.where(tight, word.CAPITAL, reason)
    return torch.where(short | tight, in_lots(quantity, lot), quantity), reason
