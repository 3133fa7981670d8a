"""What a path is worth to an investor, as losses to be minimised through the twin."""

from typing import Literal

import torch
from torch import Tensor

from plusultra_core.errors import ConfigError
from plusultra_core.simulation.twin.engine import Path

Utility = Literal["mean_variance", "log", "sharpe", "cvar"]
_TINY = 1e-12
_LEAST = 1e-3
"""What is left of a ruined account, as the reward of a policy has it."""


def utility_loss(path: Path, kind: Utility, aversion: float) -> Tensor:
    """Minus the utility of each account's returns per bar, after all costs, meaned over accounts.

    mean_variance  mean - aversion / 2 x variance
    log            mean of log growth (aversion is not used)
    sharpe         mean over deviation, per bar (aversion is not used)
    cvar           mean + aversion x the mean of the worst twentieth of bars

    An account without equity earns nothing any more; its log growth is that of a thousandth.
    Shapes  path of S steps and E accounts; result a scalar.
    Raises  ConfigError for a negative aversion or a kind that is not there.
    Source  Markowitz 1952; Kelly 1956; Sharpe 1966; Rockafellar and Uryasev 2000.
    """
    if aversion < 0:
        raise ConfigError(f"utility.aversion: expected >= 0, found {aversion}")
    solvent_SE = path.equity[:-1] > 0
    ret_SE = torch.where(solvent_SE, path.equity[1:] / torch.where(solvent_SE, path.equity[:-1], 1.0) - 1.0, 0.0)
    mean_E = ret_SE.mean(dim=0)
    if kind == "mean_variance":
        return -(mean_E - 0.5 * aversion * ret_SE.var(dim=0, correction=0)).mean()
    if kind == "log":
        return -(path.equity[-1] / path.equity[0]).clamp(min=_LEAST).log().mean() / len(ret_SE)
    if kind == "sharpe":
        return -(mean_E / (ret_SE.var(dim=0, correction=0) + _TINY).sqrt()).mean()
    if kind == "cvar":
        num_worst = max(1, round(0.05 * len(ret_SE)))
        worst_E = torch.topk(ret_SE, num_worst, dim=0, largest=False).values.mean(dim=0)
        return -(mean_E + aversion * worst_E).mean()
    raise ConfigError(f"utility: expected mean_variance, log, sharpe or cvar, found {kind!r}")
