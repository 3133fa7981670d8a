"""Episodes on the device of the policy: market rows, accounts, observations and rewards are its tensors, nothing is copied out.

What `TradingEnv` is to the step kernel this is to its twin on tensors, and the same numbers come out (test), but for where ended
episodes start anew: there by the caller's generator, here by the episode's name, so that no number has to leave the device.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.rl.env import World
from plusultra_core.rl.reward import RewardConfig
from plusultra_core.simulation.observation import OWN_STATE
from plusultra_core.simulation.twin.draws import stream_keys
from plusultra_core.simulation.twin.engine import TensorEnvironment
from plusultra_core.simulation.twin.records import TensorAccounts, open_accounts

_CLIP = 5.0
_LEAST_EQUITY_FRAC = 1e-3
_STARTS = 1
"""Name of the draws of starts beside the seed, so that they are none of the latencies'."""


class TensorOutcome(NamedTuple):
    """One step of E episodes. Shapes  (E,), final_obs (E, P)."""

    reward: Tensor
    ret: Tensor
    terminated: Tensor
    ended: Tensor
    final_obs: Tensor
    """Observation that followed, before any reset."""


class TensorEpisodes:
    """E episodes in lockstep, each on one asset from a start inside `span`; ended ones start anew within the step."""

    obs: Tensor

    def __init__(
        self, world: World, num_accounts: int, span: tuple[int, int], episode_bars: int, band: float, reward: RewardConfig,
        *, dtype: torch.dtype, device: str, compiled: bool = False,
    ) -> None:  # fmt: skip
        """Raises  ConfigError for terms of the reward that run through an episode; ContractError for a span without a start."""
        if reward.sharpe_coef:
            raise ConfigError(
                "device: the differential Sharpe ratio is not computed on tensors; set reward.sharpe_coef: 0 or train on the cpu"
            )
        last = span[1] - episode_bars
        t, n = np.nonzero(world.present_TN[span[0] : max(last, span[0])])
        if not n.size:
            raise ContractError(f"episodes: expected a forecast between bars {span[0]} and {last}; use shorter episodes or more bars")
        self.env = TensorEnvironment(world.market, world.bar_ns, world.simulation, world.costs, world.guard, dtype=dtype, device=device)
        self.episode_bars, self._band, self._reward = episode_bars, band, reward
        self._table = torch.from_numpy(world.table_TNF).to(device)
        self._present = torch.from_numpy(world.present_TN.copy()).to(device)
        self._starts = torch.from_numpy(np.stack((t + span[0], n))).to(device)
        self._seed = world.simulation.seed
        self._names = torch.arange(num_accounts, device=device)
        self._advance = torch.compile(self._one_step, dynamic=False) if compiled else self._one_step
        self.start = self.stream = self._names
        self.reset()

    def reset(self) -> Tensor:
        """Start every episode anew; returns the observations (E, P)."""
        self.stream = self._names.clone()
        t, n = self._begin(self.stream)
        return self.start_at(t, n)

    def start_at(self, t: Tensor, n: Tensor) -> Tensor:
        """Start episode e on asset n[e] at bar t[e].

        Raises  ContractError where an episode would outlast the market.
        """
        last = len(self._present) - 1 - self.episode_bars
        if int(t.min()) < 0 or int(t.max()) > last:
            raise ContractError(f"episodes: expected starts in bars 0 to {last}, found {int(t.min())} to {int(t.max())}; start earlier")
        capital = self.env.cfg.initial_capital_ccy
        self.start = t
        self.env.accounts = open_accounts(self.env.market, t, n[:, None], self.stream, capital, self._seed)
        self.obs = self._observe(self.env.accounts, self.start)
        return self.obs

    def present(self) -> Tensor:
        """Whether the action of each episode is heard. Shapes  (E,)."""
        accounts = self.env.accounts
        heard: Tensor = self._present[accounts.t, accounts.asset[:, 0]]
        return heard

    def step(self, action: Tensor) -> TensorOutcome:
        """One bar of every episode; ended ones start anew. Shapes  action (E,) in [-1, 1]."""
        self.env.accounts, self.start, self.stream, self.obs, outcome = self._advance(self.env.accounts, self.start, self.stream, action)
        return outcome

    def _one_step(
        self, accounts: TensorAccounts, start: Tensor, stream: Tensor, action: Tensor
    ) -> tuple[TensorAccounts, Tensor, Tensor, Tensor, TensorOutcome]:
        present = self._present[accounts.t, accounts.asset[:, 0]]
        wish = action.to(accounts.equity.dtype)
        request = _request(accounts, wish if self.env.margin.shorts else wish.clamp(min=0.0), present, self._band)
        after, _ = self.env.once(accounts, request)
        ratio = (after.equity / accounts.equity).clamp(min=_LEAST_EQUITY_FRAC)
        ret = ratio.log()
        deeper = (accounts.equity / accounts.peak - after.equity / after.peak).clamp(min=0.0)
        cfg = self._reward
        reward = cfg.scale * (ret - 0.5 * cfg.variance_coef * ret.square() - cfg.drawdown_coef * deeper)
        ended = after.done | (after.t - start >= self.episode_bars)
        final = self._observe(after, start)
        stream = torch.where(ended, stream + len(stream), stream)
        t, n = self._begin(stream)
        fresh = open_accounts(self.env.market, t, n[:, None], stream, self.env.cfg.initial_capital_ccy, self._seed)
        merged = TensorAccounts._make(
            torch.where(ended if old.dim() == 1 else ended[:, None], new, old) for new, old in zip(fresh, after, strict=True)
        )
        start = torch.where(ended, t, start)
        return merged, start, stream, self._observe(merged, start), TensorOutcome(reward, ret, after.done, ended, final)

    def _begin(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        """Bar and asset at which the episodes of these names start."""
        number = (stream_keys(self._seed, stream, torch.full_like(stream, _STARTS)) & ((1 << 62) - 1)) % self._starts.shape[1]
        return self._starts[0, number], self._starts[1, number]

    def _observe(self, accounts: TensorAccounts, start: Tensor) -> Tensor:
        """Market row of each account's bar and asset, then its own state, as `write_own_state` has it for a limit of 1."""
        equity = accounts.equity
        mark = torch.where(accounts.mark[:, 0] > 0, accounts.mark[:, 0], 0.0)
        solvent = equity > 0
        unit = torch.where(solvent, mark / torch.where(solvent, equity, 1.0), 0.0)
        peak = self.env.cfg.initial_capital_ccy + accounts.pnl_peak[:, 0]
        passed = torch.remainder(accounts.t - start, self.episode_bars).to(equity.dtype)
        columns = {
            "position": (accounts.held[:, 0] * unit).clamp(-_CLIP, _CLIP),
            "working": (accounts.working[:, 0] * unit).clamp(-_CLIP, _CLIP),
            "drawdown": ((accounts.pnl_peak[:, 0] - accounts.pnl[:, 0]) / peak).clamp(0.0, 1.0),
            "last_trade": (accounts.fill[:, 0] * unit).clamp(-_CLIP, _CLIP),
            "time_left": 1.0 - passed / self.episode_bars,
        }
        own = torch.stack([columns[name] for name in OWN_STATE], dim=1).float()
        return torch.cat((self._table[accounts.t, accounts.asset[:, 0]], own), dim=1)


def _request(accounts: TensorAccounts, action: Tensor, present: Tensor, band: float) -> Tensor:
    """Targets as `sizing.request_weights` has them for a limit of 1. Shapes  (E,) -> (E, 1)."""
    wish, weight = action[:, None], accounts.weight
    solvent = (accounts.equity > 0)[:, None]
    mark = torch.where(accounts.mark > 0, accounts.mark, 0.0)
    working = torch.where(solvent, accounts.working * mark / torch.where(solvent, accounts.equity[:, None], 1.0), 0.0)
    near = (wish - weight).abs() < band
    astray = near & (accounts.working != 0) & ((wish - weight - working).abs() >= band)
    request = torch.where(near, torch.where(astray, weight, torch.nan), wish)
    return torch.where(present[:, None], request, torch.nan)
