"""What a policy would have earned, judged by what another one did: off-policy evaluation.

Fitted Q evaluation asks nothing of the behaviour; weighted importance sampling needs its densities and is unbiased in the end.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.errors import ContractError
from plusultra_core.models.policy import Policy
from plusultra_core.rl.offline.learning import Batch, OfflineConfig, as_tensors, mlp
from plusultra_core.rl.offline.transitions import Transitions

Rule = Callable[[Tensor], Tensor]
"""Actions of a policy without exploration. Shapes  (B, P) -> (B,)."""


class Estimate(NamedTuple):
    """Discounted value of a policy from the first decision of a trajectory on, in units of the reward."""

    value: float
    """Mean of all fits: a single one hangs on the seed of its network."""
    low: float
    high: float
    """Of the middle `confidence` of the fits."""


def evaluate(rule: Rule, data: Transitions, cfg: OfflineConfig, seed: int, num_refits: int, confidence: float = 0.95) -> Estimate:
    """Fitted Q evaluation of a rule on all trajectories, and refitted on bootstrap samples of them.

    A trajectory is the unit that is drawn: steps of one are not independent, and what its action values say is.
    Raises  ContractError for fewer than two trajectories.
    Source  Le, Voloshin, Yue 2019, Batch Policy Learning under Constraints, section 4.2;
            Hao et al. 2021, Bootstrapping Fitted Q-Evaluation.
    """
    if data.trajectory_B[-1] < 1 or num_refits < 2:
        raise ContractError(f"evaluation: expected 2 trajectories and refits at least, found {data.trajectory_B[-1] + 1} and {num_refits}")
    batch = as_tensors(data)
    rng = np.random.default_rng((seed, 1))
    steps_of = np.split(np.arange(data.trajectory_B.size), np.flatnonzero(np.diff(data.trajectory_B)) + 1)
    first = np.array([steps[0] for steps in steps_of])
    values = [_fit(rule, batch, np.arange(data.trajectory_B.size), first, cfg, seed)]
    for refit in range(num_refits):
        drawn = rng.integers(0, len(steps_of), len(steps_of))
        values.append(_fit(rule, batch, np.concatenate([steps_of[i] for i in drawn]), first[drawn], cfg, seed + refit + 1))
    low, high = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(np.mean(values)), float(low), float(high))


def _fit(rule: Rule, batch: Batch, steps: Int64Array, first: Int64Array, cfg: OfflineConfig, seed: int) -> float:
    """Regress the action values of a rule on rewards and a slow copy of themselves; the mean value of the first decisions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = mlp(batch.obs.shape[1] + 1, cfg.width)
    slow = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=cfg.learning_rate)
    rng = np.random.default_rng((seed, 2))
    unit = float(batch.reward.std().clamp_min(1e-8))
    with torch.no_grad():
        onward, begin = rule(batch.following), rule(batch.obs[first])
    for _ in range(cfg.num_steps):
        index = torch.from_numpy(rng.choice(steps, cfg.batch_size))
        with torch.no_grad():
            ahead = slow(torch.cat((batch.following[index], onward[index, None]), dim=1)).squeeze(-1)
            target = batch.reward[index] / unit + cfg.gamma * batch.goes_on[index] * ahead
        now = net(torch.cat((batch.obs[index], batch.action[index, None]), dim=1)).squeeze(-1)
        loss = (now - target).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for old, new in zip(slow.parameters(), net.parameters(), strict=True):
                old.lerp_(new, cfg.target_rate)
    with torch.no_grad():
        return unit * float(slow(torch.cat((batch.obs[first], begin[:, None]), dim=1)).mean())


class Weighted(NamedTuple):
    """An importance-sampling estimate and how many trajectories it really rests on."""

    value: float
    effective_size: float


def weigh(policy: Policy, data: Transitions, gamma: float, max_ratio: float) -> Weighted:
    """Per-decision weighted importance sampling of the exploring policy; single ratios are clipped at `max_ratio`.

    Raises  ContractError where the behaviour's densities are not known.
    Source  Precup, Sutton, Singh 2000, Eligibility Traces for Off-Policy Policy Evaluation, section 4.
    """
    if not np.isfinite(data.logprob_B).all():
        raise ContractError(
            "evaluation: expected the behaviour's log density of every action; ledgers of written rules have none, use evaluate"
        )
    u_B = np.arctanh(np.clip(data.action_B.astype(np.float64), -1.0 + 1e-6, 1.0 - 1e-6))
    with torch.no_grad():
        mean_B = policy.mean(torch.from_numpy(data.obs_BP))
        now_B = policy.logprob(mean_B, torch.from_numpy(u_B.astype(np.float32))).double().numpy()
    log_B = np.minimum(now_B - data.logprob_B, np.log(max_ratio))
    starts = np.flatnonzero(np.concatenate(([True], np.diff(data.trajectory_B) != 0)))
    age_B = np.arange(log_B.size) - np.repeat(starts, np.diff(np.append(starts, log_B.size)))
    ratio_RT, reward_RT, here_RT = (_table(x, data.trajectory_B, age_B) for x in (log_B, data.reward_B, np.ones(log_B.size)))
    weight_RT = np.where(here_RT > 0, np.exp(np.cumsum(ratio_RT, axis=1)), 0.0)
    total_T = np.maximum(weight_RT.sum(axis=0), 1e-300)
    pay_T = (weight_RT * reward_RT).sum(axis=0) / total_T
    last_R = weight_RT[np.arange(len(weight_RT)), here_RT.sum(axis=1).astype(int) - 1]
    size = float(last_R.sum() ** 2 / np.maximum((last_R**2).sum(), 1e-300))
    return Weighted(float((gamma ** np.arange(pay_T.size) * pay_T).sum()), size)


def _table(values: NDArray[Any], row_B: Int64Array, column_B: Int64Array) -> Float64Array:
    """Trajectories as rows, decisions as columns, 0 after the end."""
    out: Float64Array = np.zeros((int(row_B[-1]) + 1, int(column_B.max()) + 1))
    out[row_B, column_B] = values
    return out
