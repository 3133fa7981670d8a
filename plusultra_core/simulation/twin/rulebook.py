"""The rulebook on tensors, as `guardrails.kernels` has it: requested weights -> weights that may be asked for, with a reason each."""

from typing import NamedTuple

import torch
from torch import Tensor

from plusultra_core.guardrails import limits as book
from plusultra_core.guardrails.limits import Limits
from plusultra_core.simulation.twin.records import TensorAccounts


class Guarded(NamedTuple):
    """Targets (E, A), 0 where `hold`; reasons; the new state of the accounts (E,)."""

    target: Tensor
    hold: Tensor
    reason: Tensor
    state: Tensor


def guard_targets(accounts: TensorAccounts, request: Tensor, fresh: Tensor, adv: Tensor, limits: Limits) -> Guarded:
    """The rulebook on every account.

    Shapes  request, fresh, adv (E, A).
    NaN     in a request: hold what is held.
    """
    equity, peak = accounts.equity, accounts.peak
    known = torch.isfinite(equity) & (equity > 0) & torch.isfinite(peak)
    judged = known | (accounts.guard == book.HALTED)
    found = _next_state(accounts.guard, equity, peak, limits)
    state = torch.where(judged, found, accounts.guard)
    rule = torch.where(judged, found, book.REDUCING)
    room = limits.max_participation * adv / torch.where(known, equity, 1.0)[:, None]
    target, hold, reason = _limit_each(request, accounts.weight, fresh, room, known[:, None], rule[:, None], limits)
    reason = torch.where((reason == book.STATE_REDUCING) & ~known[:, None], book.NO_EQUITY, reason)
    for name, limit in ((book.MAX_GROSS, limits.max_gross), (book.MAX_NET, limits.max_net)):
        target, reason = _scale(target, hold, reason, accounts.weight, name, limit)
    return Guarded(target, hold, reason, state)


def _next_state(old: Tensor, equity: Tensor, peak: Tensor, limits: Limits) -> Tensor:
    fall = torch.where(peak > 0, 1.0 - equity / torch.where(peak > 0, peak, 1.0), 1.0)
    halted = (old == book.HALTED) | ((fall >= limits.halt_drawdown) & (fall > 0))
    reducing = ((fall >= limits.reduce_drawdown) & (fall > 0)) | ((old == book.REDUCING) & (fall > limits.resume_drawdown))
    active = torch.full_like(old, book.ACTIVE)
    return torch.where(halted, book.HALTED, torch.where(reducing, book.REDUCING, active))


def _limit_each(
    request: Tensor, weight: Tensor, fresh: Tensor, room: Tensor, known: Tensor, state: Tensor, limits: Limits
) -> tuple[Tensor, Tensor, Tensor]:
    """One asset by itself; the last rule that speaks is written first."""
    unasked, endless = torch.isnan(request), torch.isinf(request)
    asked = torch.where(unasked | endless, 0.0, request)
    reduced = torch.minimum(torch.maximum(asked, weight.clamp(max=0.0)), weight.clamp(min=0.0))
    none = torch.zeros_like(unasked, dtype=torch.int64)
    big = asked.abs() > limits.max_weight
    target = torch.where(big, torch.copysign(torch.full_like(asked, limits.max_weight), asked), asked)
    reason = torch.where(big, book.MAX_WEIGHT, none)
    base = torch.where(weight * target > 0, weight, 0.0)
    fits = known & ((target - base).abs() <= room)
    wide = ~fits & (target.abs() > base.abs())
    roomy = known & (room > 0)
    reach = base + torch.copysign(torch.where(roomy, room, 0.0), target)
    target = torch.where(wide, torch.where(roomy, reach, base), target)
    reason = torch.where(wide, book.MAX_PARTICIPATION, reason)
    smaller = asked == reduced
    for speaks, value, why in (
        (~fresh, reduced, book.STALE_PRICE),
        (state == book.REDUCING, reduced, book.STATE_REDUCING),
        (smaller, asked, book.NONE),
        (endless, torch.zeros_like(asked), book.NOT_FINITE),
        (unasked, torch.zeros_like(asked), book.NONE),
    ):
        target, reason = torch.where(speaks, value, target), torch.where(speaks, why, reason)
    halted = state == book.HALTED
    moves = unasked | (request != 0) | (weight != 0)
    target = torch.where(halted, 0.0, target)
    reason = torch.where(halted, torch.where(moves, book.STATE_HALTED, none), reason)
    return target, (unasked | endless) & ~halted, reason


def _scale(target: Tensor, hold: Tensor, reason: Tensor, weight: Tensor, rule: int, limit: float) -> tuple[Tensor, Tensor]:
    """Shrink what is asked for until gross or net fit; what is merely held counts and stays."""
    value = torch.where(hold, weight, target)
    value = value.abs() if rule == book.MAX_GROSS else value
    held = torch.where(hold, value, 0.0).sum(dim=1, keepdim=True)
    asked = torch.where(hold, 0.0, value).sum(dim=1, keepdim=True)
    over = ((held + asked).abs() > limit * (1.0 + 1e-12)) & (asked != 0)
    bound = torch.copysign(torch.full_like(held, limit), held + asked)
    scale = torch.where(over, (bound - held) / torch.where(over, asked, 1.0), 1.0).clamp(0.0, 1.0)
    cut = over & (scale < 1.0) & ~hold & (target != 0)
    return torch.where(cut, target * scale, target), torch.where(cut, rule, reason)
