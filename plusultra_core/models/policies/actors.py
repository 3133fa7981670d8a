"""Actors and critics in the words of `rl.learning.interface`: of one slot, and of a whole account."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from plusultra_core.errors import ArtifactError
from plusultra_core.models.policies.body import Body
from plusultra_core.models.policies.distributions import Distribution, GridCategorical, SimplexDirichlet, SquashedGaussian
from plusultra_core.models.policies.recipe import RecipeConfig
from plusultra_core.models.policy import orthogonal, stack

_CERTAIN = 40.0


class SlotPolicy(nn.Module):
    """One slot a row: squashed Gaussian or categorical over a grid of parts of the limit.

    Shapes  obs (B, M + O), state (B, S), allowed (B, 1) for a Gaussian, (B, G) for a categorical.
    """

    grid_G: Tensor

    def __init__(self, cfg: RecipeConfig, body: Body) -> None:
        super().__init__()
        self.body = body
        self.num_state = body.num_state
        self.has_memory = body.memory.width > 0
        self._is_grid = cfg.head == "categorical"
        self.actor = stack(cfg.size, body.width, len(cfg.grid) if self._is_grid else 1)
        self.critic = stack(cfg.size, body.width, 1)
        self.register_buffer("grid_G", torch.tensor(cfg.grid))
        self.register_load_state_dict_post_hook(partial(_require_grid, cfg.grid))  # type: ignore[no-untyped-call]
        if not self._is_grid:
            self.logstd = nn.Parameter(torch.full((1,), math.log(cfg.size.init_std)))
        orthogonal(self.actor, 0.01)
        orthogonal(self.critic, 1.0)

    def remember(self, obs_BP: Tensor, state_BS: Tensor) -> Tensor:
        """State after the observation, given the one before."""
        return self.body.remember(obs_BP, state_BS)

    def distribution(self, obs_BP: Tensor, state_BS: Tensor, allowed_BC: Tensor | None = None) -> Distribution:
        """What the policy would do."""
        score_BG = self.actor(self.body(obs_BP, state_BS))
        if self._is_grid:
            return GridCategorical(score_BG, self.grid_G, allowed_BC)
        return SquashedGaussian(score_BG.squeeze(-1), self.logstd, None if allowed_BC is None else allowed_BC.any(dim=1))

    def value(self, obs_BP: Tensor, state_BS: Tensor) -> Tensor:
        """What the critic expects. Shapes  (B,)."""
        value_B: Tensor = self.critic(self.body(obs_BP, state_BS)).squeeze(-1)
        return value_B

    def silence(self) -> None:
        """Make every action 0."""
        with torch.no_grad():
            for parameter in last_linear(self.actor).parameters():
                parameter.zero_()
            if self._is_grid:
                last_linear(self.actor).bias[int((self.grid_G == 0).nonzero()[0])] = _CERTAIN

    def fit_rows(self, rows_RF: Tensor) -> None:
        """Fit the scaler of market rows; give rows of the train span only."""
        self.body.fit_rows(rows_RF)

    def scale_rows(self, rows_RF: Tensor) -> Tensor:
        """Market rows as the networks take them."""
        return self.body.scale_rows(rows_RF)


class BookPolicy(nn.Module):
    """A whole account a row: Dirichlet weights of its A slots and of cash. The order of the slots does not matter, nor their number.

    Every slot is read by the same networks, beside the mean over all slots.
    Shapes  obs (B, A (M + O)), slot by slot; state (B, A S); allowed (B, A).
    """

    def __init__(self, cfg: RecipeConfig, body: Body, num_slots: int) -> None:
        super().__init__()
        self.body = body
        self.num_slots = num_slots
        self.num_state = num_slots * body.num_state
        self.has_memory = body.memory.width > 0
        width = cfg.size.width
        self.actor, self.critic = stack(cfg.size, body.width, width), stack(cfg.size, body.width, width)
        self.score, self.cash, self.worth = nn.Linear(2 * width, 1), nn.Linear(width, 1), nn.Linear(width, 1)
        self.logscale = nn.Parameter(torch.full((1,), -math.log(cfg.size.init_std)))
        for net in (self.actor, self.critic):
            orthogonal(net, math.sqrt(2.0))
        for head, gain in ((self.score, 0.01), (self.cash, 0.01), (self.worth, 1.0)):
            orthogonal(nn.Sequential(head), gain)

    def remember(self, obs_BP: Tensor, state_BS: Tensor) -> Tensor:
        """State after the observation, given the one before."""
        rows = len(obs_BP) * self.num_slots
        state_RS = self.body.remember(obs_BP.reshape(rows, self.body.num_obs), state_BS.reshape(rows, self.body.num_state))
        return state_RS.reshape(len(obs_BP), self.num_state)

    def distribution(self, obs_BP: Tensor, state_BS: Tensor, allowed_BC: Tensor | None = None) -> Distribution:
        """What the policy would do."""
        h_BAW = torch.tanh(self.actor(self._read(obs_BP, state_BS)))
        pooled_BW = h_BAW.mean(dim=1)
        beside_BAW = pooled_BW[:, None].expand_as(h_BAW)
        score_BA = self.score(torch.cat((h_BAW, beside_BAW), dim=2)).squeeze(-1)
        score_BW = torch.cat((score_BA, self.cash(pooled_BW)), dim=1)
        allowed_BA = torch.ones_like(score_BA, dtype=torch.bool) if allowed_BC is None else allowed_BC
        return SimplexDirichlet(score_BW, torch.cat((allowed_BA, torch.ones_like(allowed_BA[:, :1])), dim=1), self.logscale.exp())

    def value(self, obs_BP: Tensor, state_BS: Tensor) -> Tensor:
        """What the critic expects. Shapes  (B,)."""
        h_BW = torch.tanh(self.critic(self._read(obs_BP, state_BS))).mean(dim=1)
        value_B: Tensor = self.worth(h_BW).squeeze(-1)
        return value_B

    def silence(self) -> None:
        """Leave all in cash."""
        with torch.no_grad():
            for head, bias in ((self.score, -_CERTAIN), (self.cash, _CERTAIN)):
                head.weight.zero_()
                head.bias.fill_(bias)

    def fit_rows(self, rows_RF: Tensor) -> None:
        """Fit the scaler of market rows; give rows of the train span only."""
        self.body.fit_rows(rows_RF)

    def scale_rows(self, rows_RF: Tensor) -> Tensor:
        """Market rows as the networks take them."""
        return self.body.scale_rows(rows_RF)

    def _read(self, obs_BP: Tensor, state_BS: Tensor) -> Tensor:
        shape = (len(obs_BP), self.num_slots)
        rows = shape[0] * shape[1]
        x_RX: Tensor = self.body(obs_BP.reshape(rows, self.body.num_obs), state_BS.reshape(rows, self.body.num_state))
        return x_RX.reshape(*shape, self.body.width)


def _require_grid(grid: tuple[float, ...], module: nn.Module, keys: object) -> None:
    """Masks are made of the recipe's grid and actions of the weights' own: they are one.

    Raises  ArtifactError where they differ.
    """
    found = [float(part) for part in module.get_buffer("grid_G")]
    if found != torch.tensor(grid).tolist():
        raise ArtifactError(f"policy.grid_G: expected {list(grid)}, found {found[:9]}; train again")


def last_linear(net: nn.Sequential) -> nn.Linear:
    """The last layer of a stack."""
    layer = net[-1]
    assert isinstance(layer, nn.Linear)
    return layer
