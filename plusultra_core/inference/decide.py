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
from plusultra_core.errors import ArtifactError, ConfigError, ContractError
from plusultra_core.guardrails.limits import ACTIVE
from plusultra_core.models.bundle import Bundle, load_forecaster, make_module, num_layers
from plusultra_core.models.policies.acting import Acting, allowed_parts, book_parts
from plusultra_core.models.policies.build import AnyPolicy, build
from plusultra_core.models.policies.recipe import RecipeConfig
from plusultra_core.models.policy import ACTOR, FORECASTER, Policy, market_rows
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
    shorts: bool
    """Whether what is not held can be sold."""


def size_forecast(
    quantiles: Float64Array, levels: tuple[float, ...], book: Book, limit: float, max_gross: float, cfg: SizingConfig
) -> Float64Array:
    """Target weights of A assets from their quantiles: gain x median / risk, at most the limit, scaled into the gross limit.

    Where nothing can be sold short, what should fall is 0 and takes no room.
    Where the median does not pay for the trade the wish only reduces what is held, as the guardrails do.
    Shapes  quantiles (A, Q) of the traded horizon; result (A,).
    Units   weights are signed fractions of equity.
    NaN     in the result: keep what is held, because the wish lies within the no-trade band or there is no forecast.
    """
    part = raw_weight(quantiles, levels, cfg.gain)
    part = part if book.shorts else np.maximum(part, 0.0)
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
    """A policy bundle at work on a panel: the observation of PPO's environment, the action without exploration.

    What a policy remembers goes from one bar's decision to the next one's; an account at its start has nothing to remember.
    """

    def __init__(self, bundle: Bundle, panel: Panel, span: tuple[int, int]) -> None:
        """Encode every window of the span once.

        Raises  ArtifactError when the bundle is no policy.
        """
        self.recipe = policy_recipe(bundle)
        self.policy = load_policy(bundle, len(panel.symbols))
        self.limit, self._gross, self._band, episode_bars = _numbers(bundle)
        self._episode_bars = int(episode_bars)
        self._least = -math.inf if _sells_short(bundle) else 0.0
        self._first = span[0]
        n_B, t_B = anchors_in(panel, span)
        rows_BF = self._rows(bundle, panel, n_B, t_B)
        self._table_TNF: Float32Array = np.zeros((span[1] - span[0], len(panel.symbols), rows_BF.shape[1]), dtype=np.float32)
        self._table_TNF[t_B - span[0], n_B] = rows_BF
        self._present_TN: BoolArray = np.zeros(self._table_TNF.shape[:2], dtype=np.bool_)
        self._present_TN[t_B - span[0], n_B] = True
        self._acting: Acting | None = None

    def _rows(self, bundle: Bundle, panel: Panel, n_B: Int64Array, t_B: Int64Array) -> Float32Array:
        """What the observation holds of the market: scaled rows, or numbers of windows for a policy with its own backbone."""
        inputs = input_tensors(panel, bundle.scaler.center, bundle.scaler.scale, bundle.scaler.clip, "cpu")
        windows = None if isinstance(self.policy, Policy) else self.policy.body.rows
        if windows is None:
            model = load_forecaster(bundle, FORECASTER)
            rows_BF = market_rows(model, bundle.temperature, inputs.gather, torch.from_numpy(n_B), torch.from_numpy(t_B))
            return np.asarray(self.policy.scale_rows(rows_BF).numpy())
        windows.requires_grad_(False)
        windows.attach(inputs.gather, n_B, t_B)
        return np.arange(n_B.size, dtype=np.float32)[:, None]

    def another(self) -> "PolicyDesk":
        """The same desk for other accounts: what the policy remembers of them is their own."""
        other = copy.copy(self)
        other._acting = None
        return other

    def decide(self, accounts: Accounts, last: Step, start_E: Int64Array) -> Float64Array:
        """Targets of every slot at the close of its account's bar. Shapes  start (E,); result (E, A)."""
        num_accounts, num_slots = accounts.asset_EA.shape
        own_EAO = np.zeros((num_accounts, num_slots, len(OWN_STATE)))
        obs_EAP = np.zeros((num_accounts, num_slots, self._table_TNF.shape[2] + len(OWN_STATE)), dtype=np.float32)
        write_own_state(accounts, last, self.limit, start_E, self._episode_bars, own_EAO)
        write_observation(self._table_TNF, accounts, own_EAO, self._first, obs_EAP)
        present = self._present_TN[accounts.t_E[:, None] - self._first, accounts.asset_EA]
        fresh_EA = np.broadcast_to((accounts.t_E == start_E)[:, None], present.shape)
        weight_EA = np.asarray(accounts.weight_EA)
        if self.recipe.is_book:
            held = self._act(obs_EAP.reshape(num_accounts, -1), fresh_EA[:, 0], present)
            part = book_parts(held, weight_EA, present, self._gross, self.limit)
        else:
            part = self._act(obs_EAP.reshape(present.size, -1), fresh_EA.reshape(-1), self._allowed(accounts, own_EAO)).reshape(
                present.shape
            )
        return request_weights(np.maximum(part, self._least), present, weight_EA, working_weights(accounts), self.limit, self._band)

    def _act(self, obs_BP: Float32Array, fresh_B: BoolArray, allowed_BC: BoolArray | None) -> Float64Array:
        """Raises  ContractError when other accounts go on where these have stopped."""
        if self._acting is None or self._acting.num_rows != len(obs_BP):
            if self.policy.has_memory and not fresh_B.all():
                raise ContractError("policy: accounts that are under way have nothing to remember; decide from their start on, bar by bar")
            self._acting = Acting(self.policy, len(obs_BP))
        return self._acting.act(obs_BP, fresh_B, allowed_BC)

    def _allowed(self, accounts: Accounts, own_EAO: Float64Array) -> BoolArray | None:
        """Of a categorical, what the rulebook would not cut: an account that may only reduce is not asked for more."""
        if self.recipe.head != "categorical":
            return None
        free_EA = np.broadcast_to((accounts.guard_E == ACTIVE)[:, None], accounts.asset_EA.shape)
        return allowed_parts(np.array(self.recipe.grid, dtype=np.float32), own_EAO[:, :, 0].reshape(-1), free_EA.reshape(-1))


def _numbers(bundle: Bundle) -> tuple[float, ...]:
    """Limit of a slot, of the gross, the no-trade band and the length of an episode.

    Raises  ArtifactError when one is missing or makes no sense: a bundle is somebody else's file.
    """
    found = []
    for name, least, most in (("limit", 1e-9, math.inf), ("gross", 1e-9, math.inf), ("band", 0.0, 1.0), ("episode_bars", 1.0, 2.0**53)):
        value: Any = bundle.config.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not least <= value < most:
            raise ArtifactError(f"bundle.config.{name}: expected a number in [{least:g}, {most:g}), found {value!r}; train again")
        found.append(float(value))
    return tuple(found)


def _sells_short(bundle: Bundle) -> bool:
    """Whether the market lent, in which the policy was trained; its actions below 0 ask for nothing where it did not.

    Raises  ArtifactError where the bundle does not say so.
    """
    value: Any = bundle.config.get("shorts")
    if not isinstance(value, bool):
        raise ArtifactError(f"bundle.config.shorts: expected true or false, found {value!r}; train again")
    return value


def policy_recipe(bundle: Bundle) -> RecipeConfig:
    """The recipe in a policy bundle.

    Raises  ArtifactError when the bundle is no policy or its recipe is none.
    """
    if bundle.kind != "policy":
        raise ArtifactError(f"policy: expected a bundle of kind policy, found {bundle.kind}; train the policy")
    raw: Any = bundle.config.get("policy")
    try:
        return config.parse(RecipeConfig, raw, "bundle.config.policy")
    except (ConfigError, OverflowError, RecursionError) as error:
        raise ArtifactError(f"{str(error)[:300]}; train the policy again") from error


def load_policy(bundle: Bundle, num_slots: int) -> AnyPolicy:
    """Actor and critic of a policy bundle, in eval mode, for so many slots where it holds a whole book.

    Raises  ArtifactError when the bundle is no policy or its tensors are not those of its config.
    """
    recipe = policy_recipe(bundle)
    forecaster = load_forecaster(bundle, FORECASTER)
    tensors = {name.removeprefix(ACTOR): tensor for name, tensor in bundle.tensors.items() if name.startswith(ACTOR)}

    def fresh() -> AnyPolicy:
        return build(recipe, forecaster, bundle.temperature, len(OWN_STATE), num_slots, 0)

    own = num_layers(forecaster.cfg) if recipe.kind == "backbone" else 0
    policy = make_module(fresh, tensors, 2 * recipe.size.num_layers + own)
    policy.eval()
    return policy
