"""Actor and critic over a market row and the account's own state; and how a market row is made of a forecaster."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plusultra_core.errors import ConfigError
from plusultra_core.models.forecaster import Forecaster, windows_at_once
from plusultra_core.models.policies.distributions import SquashedGaussian

FORECASTER = "forecaster."
"""Under this name a policy bundle holds the forecaster it was trained with."""
ACTOR = "policy."
"""Under this name it holds actor, critic and the scaler of market rows."""
SILENT = 1e30
"""Scale of a column that stood still in the train span: what it does later is divided to zero, since no weight has learned to read it."""
_CLIP = 5.0

Gather = Callable[[Tensor, Tensor], Sequence[Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    """Size of actor and critic."""

    width: int
    """Units of a hidden layer."""
    num_layers: int
    """Hidden layers of each."""
    init_std: float
    """Standard deviation of the action before squashing, at the start."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.num_layers < 1 or not self.init_std > 0:
            raise ConfigError("policy: expected width, num_layers >= 1 and init_std > 0")


class Policy(nn.Module):
    """Squashed Gaussian: action = tanh(u), u ~ N(mean(obs), std). No dropout, so that an update sees what the rollout saw.

    Log-probabilities and entropy are those of u; the squashing's Jacobian depends on the action alone and
    cancels in every ratio.
    """

    center_F: Tensor
    scale_F: Tensor
    num_state = 0
    has_memory = False

    def __init__(self, cfg: PolicyConfig, num_market: int, num_own: int) -> None:
        super().__init__()
        self.actor = stack(cfg, num_market + num_own, 1)
        self.critic = stack(cfg, num_market + num_own, 1)
        self.logstd = nn.Parameter(torch.full((1,), math.log(cfg.init_std)))
        self.register_buffer("center_F", torch.zeros(num_market))
        self.register_buffer("scale_F", torch.ones(num_market))
        orthogonal(self.actor, 0.01)
        orthogonal(self.critic, 1.0)

    def mean(self, obs_BP: Tensor) -> Tensor:
        """Mean of u. Shapes  (B, P) -> (B,)."""
        mean_B: Tensor = self.actor(obs_BP).squeeze(-1)
        return mean_B

    def value(self, obs_BP: Tensor, state_BS: Tensor | None = None) -> Tensor:
        """Value of an observation; there is no state to read. Shapes  (B, P) -> (B,)."""
        value_B: Tensor = self.critic(obs_BP).squeeze(-1)
        return value_B

    def logprob(self, mean_B: Tensor, u_B: Tensor) -> Tensor:
        """Log density of u. Shapes  (B,), (B,) -> (B,)."""
        z_B = (u_B - mean_B) * torch.exp(-self.logstd)
        return -0.5 * z_B.square() - self.logstd - 0.5 * math.log(2.0 * math.pi)

    def entropy(self) -> Tensor:
        """Entropy of u, the same everywhere. Shapes  -> (1,)."""
        return self.logstd + 0.5 * math.log(2.0 * math.pi * math.e)

    def act(self, obs_BP: Tensor) -> Tensor:
        """The action that is taken when nothing is explored. Shapes  (B, P) -> (B,), in (-1, 1)."""
        return torch.tanh(self.mean(obs_BP))

    def remember(self, obs_BP: Tensor, state_BS: Tensor) -> Tensor:
        """Nothing is remembered."""
        return state_BS

    def distribution(self, obs_BP: Tensor, state_BS: Tensor, allowed_BC: Tensor | None = None) -> SquashedGaussian:
        """The same in the words of every other kind of policy."""
        return SquashedGaussian(self.mean(obs_BP), self.logstd, None if allowed_BC is None else allowed_BC.any(dim=1))

    def silence(self) -> None:
        """Make every action 0: empty the actor's last layer."""
        with torch.no_grad():
            for parameter in self.actor[-1].parameters():
                parameter.zero_()

    def fit_rows(self, rows_RF: Tensor) -> None:
        """Fit the scaler of market rows; give rows of the train span only."""
        std_F = rows_RF.std(dim=0, correction=0)
        self.center_F.copy_(rows_RF.mean(dim=0))
        self.scale_F.copy_(torch.where(std_F > 1e-6, std_F, SILENT))

    def scale_rows(self, rows_RF: Tensor) -> Tensor:
        """Market rows as the networks take them, clipped to [-5, 5]."""
        return ((rows_RF - self.center_F) / self.scale_F).clamp(-_CLIP, _CLIP)


def build_policy(cfg: PolicyConfig, num_market: int, num_own: int, seed: int) -> Policy:
    """A policy with fresh weights; equal seeds, equal weights. The global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Policy(cfg, num_market, num_own)


def num_market_columns(model: Forecaster) -> int:
    """Width of a market row: h, quantiles and direction probabilities of every horizon."""
    cfg, num_horizons = model.cfg, model.shape.num_horizons
    return model.width + num_horizons * (len(cfg.quantile_levels) + cfg.num_classes)


def market_rows(model: Forecaster, temperature: Sequence[float], gather: Gather, n_B: Tensor, t_B: Tensor) -> Tensor:
    """What a policy sees of the market at (n, t): h, quantiles, calibrated direction probabilities.

    Shapes  n, t (B,) int64; result (B, D + K Q + K C) float32, on the CPU, not scaled.
    Looks   back only, as far as `gather` does.
    """
    temperature_K1 = torch.tensor(tuple(temperature), device=n_B.device)[:, None]
    parts = [torch.zeros(0, num_market_columns(model))]
    batch = windows_at_once(model.cfg, model.shape)
    with torch.inference_mode():
        for first in range(0, len(n_B), batch):
            forecast = model(*gather(n_B[first : first + batch], t_B[first : first + batch]))
            probability_BKC = (forecast.logits_BKC / temperature_K1).softmax(dim=-1)
            row_BF = torch.cat((forecast.h_BD, forecast.quantiles_BKQ.flatten(1), probability_BKC.flatten(1)), dim=1)
            parts.append(row_BF.float().cpu())
    return torch.cat(parts).clone()


def quantiles_of_rows(model: Forecaster, rows_RF: Tensor) -> Tensor:
    """The quantiles inside market rows. Shapes  (R, F) -> (R, K, Q)."""
    num_horizons, num_levels = model.shape.num_horizons, len(model.cfg.quantile_levels)
    return rows_RF[:, model.width : model.width + num_horizons * num_levels].reshape(-1, num_horizons, num_levels)


def stack(cfg: PolicyConfig, num_inputs: int, num_outputs: int) -> nn.Sequential:
    """Hidden layers with tanh between them, and a linear one."""
    layers: list[nn.Module] = []
    width = num_inputs
    for _ in range(cfg.num_layers):
        layers += [nn.Linear(width, cfg.width), nn.Tanh()]
        width = cfg.width
    return nn.Sequential(*layers, nn.Linear(width, num_outputs))


def orthogonal(net: nn.Sequential, last_gain: float) -> None:
    """Initialisation of CleanRL's PPO."""
    linears = [layer for layer in net if isinstance(layer, nn.Linear)]
    for layer in linears:
        nn.init.orthogonal_(layer.weight, last_gain if layer is linears[-1] else math.sqrt(2.0))
        nn.init.zeros_(layer.bias)
