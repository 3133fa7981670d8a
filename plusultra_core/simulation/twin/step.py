"""The step kernel once more, on tensors: for devices that have no Numba, and for gradients.

Every stage is that of `simulation.kernels`, written over (E, A) tensors without a branch on data and without writing in place. What the
kernel computes and what this computes are equal (test); what is a condition there has no gradient here: orders too small to be sent,
lots, limits not traded through, caps that bind. Where none of these bind, the gradient of equity with respect to requests is exact.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from plusultra_core.clock import NS_PER_YEAR
from plusultra_core.guardrails.limits import Limits
from plusultra_core.simulation import records as word
from plusultra_core.simulation.costs import MAX_SHIFT, Rules
from plusultra_core.simulation.twin.draws import Latency
from plusultra_core.simulation.twin.orders import Bar, Filled, Quote, fill_orders, place_orders, quote, read_bar
from plusultra_core.simulation.twin.records import Happened, TensorAccounts, TensorMarket
from plusultra_core.simulation.twin.rulebook import guard_targets


def step(
    market: TensorMarket, accounts: TensorAccounts, request: Tensor, latency: Latency, rules: Rules, limits: Limits
) -> tuple[TensorAccounts, Happened]:
    """Carry every account from the close of its bar t to that of bar t + 1.

    Shapes  request (E, A).
    Units   signed fractions of equity.
    NaN     keep what is held and what is working.
    """
    bar = read_bar(market, accounts)
    guarded = guard_targets(accounts, request, bar.fresh, bar.adv, limits)
    placed = place_orders(accounts, guarded, request, latency.draw(accounts.key, accounts.t), bar, rules)
    quoted = quote(placed, accounts.t, bar, rules)
    filled = fill_orders(accounts, placed, quoted, bar, rules)
    charged = _charge(accounts, filled, placed.limit, quoted, bar, rules)
    target = torch.where(guarded.hold, torch.nan, guarded.target)
    moved = accounts._replace(limit=placed.limit, arrival=placed.arrival, guard=guarded.state)
    return _close(moved, filled, charged, target, guarded.reason, bar, rules)


def _charge(accounts: TensorAccounts, s: Filled, limit: Tensor, quoted: Quote, bar: Bar, rules: Rules) -> dict[str, Tensor]:
    """Price and costs of what was filled. A quantity of 0 is charged as 1, then dropped: no root of 0 meets a gradient."""
    dtype = bar.close.dtype
    filled = s.fill != 0
    mark = torch.where(accounts.mark > 0, accounts.mark, 1.0)
    quantity = torch.where(filled, s.fill.abs(), 1.0)
    side = torch.where(s.fill < 0, -1.0, 1.0).to(dtype)
    price, takes = quoted.price, quoted.takes
    notional = quantity * price
    share = notional / bar.adv
    power = torch.sqrt(share) if rules.impact_exponent == 0.5 else share**rules.impact_exponent
    impact = (rules.impact_coef * bar.sigma * power).clamp(max=rules.max_impact_frac)
    spread = torch.where(takes, quoted.spread, 0.0)
    impact = torch.where(takes, impact, 0.0)
    bounded = ~torch.isnan(limit)
    within = (torch.where(bounded, limit, price) / price - 1.0) * side - spread
    impact = torch.where(bounded, torch.minimum(impact, within), impact)
    push = side * rules.permanent_coef * bar.sigma * share
    shift = accounts.shift
    push = torch.minimum(torch.maximum(push, -MAX_SHIFT - shift), MAX_SHIFT - shift)
    met = shift + 0.5 * push
    paid = price * (1.0 + side * (spread + impact) + met)
    taker = rules.fee_frac * quantity * paid
    maker = rules.maker_fee_frac * quantity * paid
    taker = taker.clamp(min=rules.fee_min_ccy)
    maker = maker.clamp(min=rules.fee_min_ccy) if rules.maker_fee_frac >= 0.0 else maker
    found = {
        "price": paid,
        "spread": notional * spread,
        "impact": notional * impact + s.fill * price * met,
        "latency_drift": s.fill * (price - mark),
        "fees": torch.where(takes, taker, maker),
    }
    charged = {name: torch.where(filled, value, 0.0) for name, value in found.items()}
    charged["shift"] = torch.where(filled, shift + push, shift) * (1.0 - rules.permanent_decay_frac)
    return charged


class Marked(NamedTuple):
    """Slots at the close of the bar, (E, A); `known` where they have a price, `ends` where they are paid out now."""

    new: Tensor
    known: Tensor
    ends: Tensor
    held: Tensor
    price_pnl: Tensor
    funding: Tensor
    borrow: Tensor


def _mark(accounts: TensorAccounts, s: Filled, bar: Bar, rules: Rules) -> Marked:
    """Price result, funding and dividends, borrow; a delisted asset is paid out."""
    done = accounts.done[:, None]
    priced = accounts.mark > 0
    old = torch.where(priced, accounts.mark, 1.0)
    ends, seen = bar.ends & ~done, bar.trades & ~done
    new = torch.where(ends, old * (1.0 + bar.terminal_ret), torch.where(seen, bar.close, old))
    funding = s.held * new * bar.funding if rules.funding else torch.zeros_like(s.held)
    years = (bar.after - bar.now).to(old.dtype) / NS_PER_YEAR
    borrow = torch.where(s.held < 0, -s.held * old * (rules.borrow_frac_year * years), 0.0)
    held = torch.where(ends, 0.0, s.held)
    return Marked(new, priced | seen, ends, held, s.held * (new - old), funding - accounts.held * bar.dividend, borrow)


def _find_loss(cash: Tensor, m: Marked, bar: Bar, rules: Rules) -> tuple[Tensor, Tensor]:
    """Accounts that the worst prices of the bar leave with less than the maintenance margin, and what closing them loses."""
    worst = torch.where(m.held > 0, torch.minimum(bar.low, m.new), torch.maximum(bar.high, m.new))
    worst = torch.where(bar.trades, worst, m.new)
    gross = (m.held.abs() * worst).sum(dim=1)
    doomed = ~((gross == 0) | (cash + (m.held * worst).sum(dim=1) >= rules.maintenance_margin * gross))
    loss = m.held.abs() * ((m.new - worst).abs() + rules.liquidation_penalty_frac * worst)
    return doomed, torch.where(doomed[:, None], loss, 0.0)


def _close(
    accounts: TensorAccounts, s: Filled, charged: dict[str, Tensor], target: Tensor, guard: Tensor, bar: Bar, rules: Rules
) -> tuple[TensorAccounts, Happened]:
    """Mark, liquidate, close the books."""
    m = _mark(accounts, s, bar, rules)
    paid = s.fill * charged["price"] + charged["fees"] + m.funding + m.borrow
    cash = accounts.cash - paid.sum(dim=1) + torch.where(m.ends, s.held * m.new, 0.0).sum(dim=1)
    doomed_E, loss = _find_loss(cash, m, bar, rules)
    doomed = doomed_E[:, None]
    cash = cash + torch.where(doomed, m.held * m.new, 0.0).sum(dim=1) - loss.sum(dim=1)
    carried = s.status == word.CARRIED
    happened = Happened(
        target=target,
        guard=guard,
        decision=s.sent,
        arrival=s.arrived,
        order=s.order,
        fill=s.fill,
        price=charged["price"],
        status=torch.where(doomed & carried, word.CANCELLED, s.status),
        reason=torch.where(doomed & (carried | (m.held != 0)), word.LIQUIDATED, s.reason),
        position=torch.where(doomed, 0.0, m.held),
        mark=torch.where(m.known, m.new, torch.nan),
        price_pnl=m.price_pnl,
        fees=charged["fees"] + loss,
        funding=m.funding,
        borrow=m.borrow,
        liquidation=loss,
        **{name: charged[name] for name in ("spread", "impact", "latency_drift")},
    )
    ended = accounts._replace(
        cash=cash,
        done=accounts.done | doomed_E,
        working=torch.where(doomed, 0.0, s.working),
        decision=torch.where(doomed, -1, s.decision),
        fill=s.fill,
        shift=charged["shift"],
        mark=torch.where(m.ends, torch.nan, happened.mark),
    )
    return _books(ended, m, happened), happened


def _books(accounts: TensorAccounts, m: Marked, happened: Happened) -> TensorAccounts:
    """Equity, peak, weights and the result of each slot at the close of the bar."""
    held = happened.position
    equity = accounts.cash + (held * m.new).sum(dim=1)
    solvent = (equity > 0)[:, None]
    costs = happened.spread + happened.impact + happened.latency_drift + happened.fees + happened.funding + happened.borrow
    pnl = accounts.pnl + happened.price_pnl - costs
    return accounts._replace(
        t=accounts.t + 1,
        equity=equity,
        peak=torch.maximum(accounts.peak, equity),
        held=held,
        weight=torch.where(solvent & (held != 0), held * m.new / torch.where(solvent, equity[:, None], 1.0), 0.0),
        pnl=pnl,
        pnl_peak=torch.maximum(accounts.pnl_peak, pnl),
    )
