"""From forecasts to target positions: the sizing rule, and the policy. Backtest and desk call these."""

import copy
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from plusultra_core import config
from plusultra_core.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from plusultra_core.clock import NS_PER_YEAR
from plusultra_core.errors import ArtifactError, ConfigError
from plusultra_core.models.bundle import Bundle, fill_module, load_forecaster
from plusultra_core.models.policy import ACTOR, FORECASTER, Policy, PolicyConfig, build_policy, market_rows, num_market_columns
from plusultra_core.simulation.costs import Rules, order_cost_frac
from plusultra_core.simulation.observation import OWN_STATE, write_observation, write_own_state
from plusultra_core.simulation.records import Accounts, Step
from plusultra_core.simulation.sizing import raw_weight, request_weights, working_weights
from plusultra_core.windows.panel import Panel, anchors_in
from plusultra_core.windows.tensors import input_tensors


@dataclass(frozen=True, kw_only=True, slots=True)
class SizingConfig:
    """The rule that turns a forecast into a weight."""

    gain: float
    """Parts of the limit per unit of median over risk."""
    horizon_index: int
    """Horizon that is traded, by its place among the panel's."""
    band: float
    """No-trade band, part of the limit."""
    cost_factor: float
    """A position grows only where the median over the horizon promises more than this many times the cost of the
    order; 2 pays for the way in and the way out, 0 asks for nothing."""

    def __post_init__(self) -> None:
        if self.gain <= 0 or self.horizon_index < 0 or not 0 <= self.band < 1 or not self.cost_factor >= 0:
            raise ConfigError("sizing: expected gain > 0, horizon_index >= 0, band in [0, 1), cost_factor >= 0")


class Book(NamedTuple):
    """What the sizing rule knows of A assets and their account at the close of a bar."""

    weight_A: Float64Array
    """Held, signed fraction of equity."""
    working_A: Float64Array
    """Still to be traded by working orders, signed fraction of equity."""
    sigma_A: Float64Array
    """Volatility of log returns per bar, the unit of the quantiles."""
    adv_A: Float64Array
    """Average notional per bar, account currency."""
    half_spread_bps_A: Float64Array
    equity_ccy: float
    """NaN where unknown: then nothing grows."""
    rules: Rules
    horizon_bars: int


def size_forecast(
    quantiles: Float64Array, levels: tuple[float, ...], book: Book, limit: float, max_gross: float, cfg: SizingConfig
) -> Float64Array:
    """Target weights of A assets from their quantiles: gain x median / risk, at most the limit, scaled into the gross limit.

    Where the median does not pay for the trade the wish only reduces what is held, as the guardrails do.
    Shapes  quantiles (A, Q) of the traded horizon; result (A,).
    Units   weights are signed fractions of equity.
    NaN     in the result: keep what is held, because the wish lies within the no-trade band or there is no forecast.
    """
    part = raw_weight(quantiles, levels, cfg.gain)
    gross = limit * float(np.nansum(np.abs(part)))
    part = part * min(1.0, max_gross / gross) if gross > 0 else part
    held = book.weight_A / limit
    pays = np.abs(quantiles[:, levels.index(0.5)]) > order_hurdle((part - held) * limit, book, cfg.cost_factor)
    part = np.where(pays, part, np.clip(part, np.minimum(held, 0.0), np.maximum(held, 0.0)))
    request_1A = request_weights(part[None], np.isfinite(part)[None], book.weight_A[None], book.working_A[None], limit, cfg.band)
    return request_1A.reshape(-1)


def order_hurdle(change_A: Float64Array, book: Book, cost_factor: float) -> Float64Array:
    """Move, in the units of the quantiles, that pays for changing the weights: the cost of the orders and, for shorts, the loan.

    An order is priced at what one bar can fill of it. Shapes  (A,); result (A,).
    NaN     where a number of the book is.
    """
    rules = book.rules
    if cost_factor == 0.0:
        return np.zeros_like(change_A)
    quantity_A = np.minimum(np.abs(change_A) * book.equity_ccy, rules.participation * book.adv_A)
    cost_A = np.empty_like(change_A)
    order_cost_frac(quantity_A, book.sigma_A, book.adv_A, book.half_spread_bps_A, rules, cost_A)
    loan = rules.borrow_frac_year * book.horizon_bars * rules.bar_ns / NS_PER_YEAR
    cost_A = cost_factor * cost_A + np.where(book.weight_A + change_A < 0.0, loan, 0.0) + 0.0 * quantity_A  # NaN stays NaN
    hurdle: Float64Array = cost_A / (book.sigma_A * math.sqrt(book.horizon_bars))
    return hurdle


class PolicyDesk:
    """A policy bundle at work on a panel: the observation of PPO's environment, the action without exploration."""

    def __init__(self, bundle: Bundle, panel: Panel, span: tuple[int, int]) -> None:
        """Encode every window of the span once.

        Raises  ArtifactError when the bundle is no policy.
        """
        self.policy = load_policy(bundle)
        self.limit = float(bundle.config["limit"])
        self._band = float(bundle.config["band"])
        self._episode_bars = int(bundle.config["episode_bars"])
        self._first = span[0]
        model = load_forecaster(bundle, FORECASTER)
        inputs = input_tensors(panel, bundle.scaler.center, bundle.scaler.scale, bundle.scaler.clip, "cpu")
        n_B, t_B = anchors_in(panel, span)
        rows_BF = market_rows(model, bundle.temperature, inputs.gather, torch.from_numpy(n_B), torch.from_numpy(t_B))
        num_columns = num_market_columns(model)
        self._table_TNF: Float32Array = np.zeros((span[1] - span[0], len(panel.symbols), num_columns), dtype=np.float32)
        self._table_TNF[t_B - span[0], n_B] = self.policy.scale_rows(rows_BF).numpy()
        self._present_TN: BoolArray = np.zeros(self._table_TNF.shape[:2], dtype=np.bool_)
        self._present_TN[t_B - span[0], n_B] = True

    def another(self) -> "PolicyDesk":
        """The same desk for other accounts."""
        return copy.copy(self)

    def decide(self, accounts: Accounts, last: Step, start_E: Int64Array) -> Float64Array:
        """Targets of every slot at the close of its account's bar. Shapes  start (E,); result (E, A)."""
        num_accounts, num_slots = accounts.asset_EA.shape
        own_EAO = np.zeros((num_accounts, num_slots, len(OWN_STATE)))
        obs_EAP = np.zeros((num_accounts, num_slots, self._table_TNF.shape[2] + len(OWN_STATE)), dtype=np.float32)
        write_own_state(accounts, last, self.limit, start_E, self._episode_bars, own_EAO)
        write_observation(self._table_TNF, accounts, own_EAO, self._first, obs_EAP)
        with torch.inference_mode():
            part = self.policy.act(torch.from_numpy(obs_EAP).flatten(0, 1)).double().numpy().reshape(num_accounts, num_slots)
        present = self._present_TN[accounts.t_E[:, None] - self._first, accounts.asset_EA]
        return request_weights(part, present, accounts.weight_EA, working_weights(accounts), self.limit, self._band)


def load_policy(bundle: Bundle) -> Policy:
    """Actor and critic of a policy bundle, in eval mode.

    Raises  ArtifactError when the bundle is no policy or its tensors are not those of its config.
    """
    if bundle.kind != "policy":
        raise ArtifactError(f"policy: expected a bundle of kind policy, found {bundle.kind}; train the policy")
    raw: Any = bundle.config.get("policy")
    try:
        cfg = config.parse(PolicyConfig, raw, "bundle.config.policy")
    except ConfigError as error:
        raise ArtifactError(f"{error}; train the policy again") from error
    policy = build_policy(cfg, num_market_columns(load_forecaster(bundle, FORECASTER)), len(OWN_STATE), 0)
    fill_module(policy, {name.removeprefix(ACTOR): tensor for name, tensor in bundle.tensors.items() if name.startswith(ACTOR)})
    policy.eval()
    return policy
