"""Accounts in lockstep around the step kernel: `Environment` for PPO and policies, `backtest` for given targets."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.clock import NS_PER_MS
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.guardrails.margin import within_margin, without_shorts
from plusultra_core.market import CostsConfig
from plusultra_core.simulation.costs import MAX_IMPACT_FRAC, Rules
from plusultra_core.simulation.kernel.calm import build_rows, no_rows, tells_little
from plusultra_core.simulation.kernel.wires import numbers, wire
from plusultra_core.simulation.kernels import CALM, FULL, SLOTS, SPARE, USUAL, step_accounts
from plusultra_core.simulation.ledger import Ledger, Recorder
from plusultra_core.simulation.market import check_market, check_orders, last_close
from plusultra_core.simulation.records import TIMES_IN_FORCE, MarketArrays, Step, empty_step
from plusultra_core.simulation.tiles import LANES, World, build_accounts, build_scratch, build_world, stream_keys


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationConfig:
    """How targets become fills."""

    initial_capital_ccy: float
    """Equity of an account at its start."""
    latency_ms: tuple[float, ...]
    """Buckets of the time from decision to market."""
    latency_prob: tuple[float, ...]
    """Probability of each bucket; they sum to one."""
    participation: float
    """Largest part of a bar's volume that one order may take."""
    time_in_force: Literal["bar", "day", "gtc", "ioc"]
    """bar: what is left at the end of the bar it met is cancelled; day: at the end of that session; gtc: it stays until filled or
    replaced; ioc: it takes what there is on arrival and never rests."""
    order_type: Literal["market", "limit"]
    limit_offset_bps: float
    """Distance of a limit price from the close of the decision, on the passive side; used by limit orders."""
    maker_fee_factor: float
    """Part of the market's fee that an order pays which rested in the book; negative is a rebate."""
    permanent_coef: float
    """Push that a fill gives the price of the account's later fills: this x sigma x q / V, fraction of price; 0: none."""
    permanent_decay_frac: float
    """Part of that push that is lost each bar: 0 is permanent, 1 lasts for one fill."""
    min_order_ccy: float
    """Smaller changes of a position are not sent; never 0, or the dust of rounding would pay the least fee."""
    retarget_frac: float
    """A working order is kept while the new target asks for the same within this part of it."""
    adv_bars: int
    """Bars of the causal average of traded notional."""
    fallback_sigma: float
    """Volatility per bar before an asset has one."""
    seed: int

    def __post_init__(self) -> None:
        if len(self.latency_ms) != len(self.latency_prob) or not self.latency_ms:
            raise ConfigError(f"latency_prob: expected one for each of {len(self.latency_ms)} buckets, found {len(self.latency_prob)}")
        if min(self.latency_ms) < 0 or min(self.latency_prob) < 0 or not math.isclose(sum(self.latency_prob), 1.0, abs_tol=1e-9):
            raise ConfigError(f"latency: expected times >= 0 and probabilities that sum to 1, found {self.latency_ms}, {self.latency_prob}")
        if not 0 < self.participation <= 1:
            raise ConfigError(f"participation: expected in (0, 1], found {self.participation}")
        for name in ("initial_capital_ccy", "min_order_ccy", "adv_bars", "fallback_sigma"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: expected > 0, found {getattr(self, name)}")
        for name in ("limit_offset_bps", "retarget_frac", "permanent_coef", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected >= 0, found {getattr(self, name)}")
        if not 0 <= self.permanent_decay_frac <= 1 or not -1 <= self.maker_fee_factor <= 1:
            raise ConfigError("simulation: expected permanent_decay_frac in [0, 1] and maker_fee_factor in [-1, 1]")


def build_rules(cfg: SimulationConfig, costs: CostsConfig, bar_ns: int) -> Rules:
    """The scalars of the step kernel. In cash fills pay their own costs, and no price closes an account."""
    margin = costs.margin
    cash = margin.account == "cash"
    return Rules(
        bar_ns=int(bar_ns),
        participation=float(cfg.participation),
        time_in_force=TIMES_IN_FORCE[cfg.time_in_force],
        limit_offset_frac=cfg.limit_offset_bps / 1e4 if cfg.order_type == "limit" else float("nan"),
        min_order_ccy=float(cfg.min_order_ccy),
        retarget_frac=float(cfg.retarget_frac),
        max_leverage=float(margin.max_leverage),
        maintenance_margin=-math.inf if cash else float(margin.maintenance_margin),
        liquidation_penalty_frac=margin.liquidation_penalty_bps / 1e4,
        fee_frac=costs.fee_bps / 1e4,
        maker_fee_frac=cfg.maker_fee_factor * costs.fee_bps / 1e4,
        fee_min_ccy=float(costs.fee_min_ccy),
        impact_coef=float(costs.impact_coef),
        impact_exponent=float(costs.impact_exponent),
        max_impact_frac=MAX_IMPACT_FRAC,
        permanent_coef=float(cfg.permanent_coef),
        permanent_decay_frac=float(cfg.permanent_decay_frac),
        borrow_frac_year=costs.borrow_bps_year / 1e4,
        funding=bool(costs.funding),
        pays=cash,
    )


def choose_form(world: World, rules: Rules, num_slots: int) -> int:
    """The least that is compiled and has all that this config and market have."""
    if num_slots > 1 or (rules.impact_coef != 0.0 and rules.impact_exponent != 0.5):
        return SLOTS
    if rules.pays or not math.isnan(rules.limit_offset_frac) or world.terms.size or rules.permanent_coef != 0.0:
        return FULL
    plain = world.latency_ns.max() == 0 and rules.impact_coef == 0.0 and rules.borrow_frac_year == 0.0 and not world.funding.size
    return SPARE if plain else USUAL


class Environment:
    """E accounts on one market, stepped together and in place.

    `accounts` is the whole state; an account depends on nothing but its own row of it, so that any
    account gives the same numbers in any batch.
    """

    def __init__(
        self, market: MarketArrays, num_accounts: int, num_slots: int, bar_ns: int, cfg: SimulationConfig, costs: CostsConfig,
        guard: GuardrailsConfig, num_threads: int = 1, first_bar: int = 0,
    ) -> None:  # fmt: skip
        """`num_threads` share the accounts out by whole tiles; no number depends on it. `first_bar` is what the draws of
        latency call row 0 of the market, so that a part of a market draws as the whole does."""
        check_market(market)
        check_orders(market, cfg.order_type)
        self.market = market
        self.cfg = cfg
        self.rules = build_rules(cfg, costs, bar_ns)
        self.margin = costs.margin
        self.limits = within_margin(guard, self.margin).limits()
        latency_ns: Int64Array = np.array([round(ms * NS_PER_MS) for ms in cfg.latency_ms], dtype=np.int64)
        cumulative: Float64Array = np.cumsum(np.array(cfg.latency_prob, dtype=np.float64))
        self._world = build_world(market, cfg.participation, costs.funding, latency_ns, cumulative, first_bar)
        self._last_close = last_close(market)
        self._form = choose_form(self._world, self.rules, num_slots)
        num_tiles = math.ceil(num_accounts / LANES)
        bounds = [LANES * (num_tiles * i // num_threads) for i in range(num_threads)] + [num_accounts]
        self._scratches = [build_scratch(num_slots) for _ in bounds[1:]]
        self._shares = [(*pair, wire(room)) for pair, room in zip(pairwise(bounds), self._scratches, strict=True) if pair[0] < pair[1]]
        self._pool = ThreadPoolExecutor(num_threads) if num_threads > 1 else None
        self.accounts, self._block = build_accounts(num_accounts, num_slots)
        self._rows = build_rows(market) if self._form == SPARE and num_accounts > 1 else no_rows()
        self._wires, self._scalars = (wire(self._world), wire(self._block), wire(self._rows)), numbers(self.rules, self.limits)
        self.last = empty_step((num_accounts, num_slots))._replace(fill=self.accounts.fill_EA)
        self._nothing, self._no_books = wire(empty_step((0,))), np.zeros(0)
        self._last_wires = wire(self.last)

    def reset(
        self, rows: Int64Array, t_R: Int64Array, asset_RA: Int64Array, stream_R: Int64Array, name_RA: Int64Array | None = None
    ) -> None:
        """Start the accounts `rows` anew: nothing held, the initial capital, first decision at bar t_R.

        `name_RA` is what the draws of latency call the assets, where that is not their column: worlds that stand side by
        side in one market.
        Raises  ContractError for bars, assets or streams that are not there.
        """
        num_times, num_assets = self.market.tradable.shape
        if t_R.size and (t_R.min() < 0 or t_R.max() > num_times - 2):
            raise ContractError(f"reset: expected decision bars in [0, {num_times - 2}], found {t_R.min()} to {t_R.max()}")
        if asset_RA.size and (asset_RA.min() < 0 or asset_RA.max() >= num_assets or stream_R.min() < 0):
            raise ContractError(f"reset: expected assets in [0, {num_assets}) and streams >= 0")
        accounts = self.accounts
        for name in ("cash_E", "equity_E", "peak_E", "capital_E"):
            getattr(accounts, name)[rows] = self.cfg.initial_capital_ccy
        for name in (
            "guard_E",
            "done_E",
            "position_EA",
            "weight_EA",
            "working_EA",
            "arrival_EA",
            "fill_EA",
            "shift_EA",
            "pnl_EA",
            "pnl_peak_EA",
        ):
            getattr(accounts, name)[rows] = 0
        accounts.decision_EA[rows] = -1
        accounts.limit_EA[rows] = np.nan
        accounts.t_E[rows] = t_R
        accounts.asset_EA[rows] = asset_RA
        accounts.stream_E[rows] = stream_R
        accounts.key_EA[rows] = stream_keys(self.cfg.seed, stream_R[:, None], asset_RA if name_RA is None else name_RA)
        accounts.mark_EA[rows] = self._last_close[t_R[:, None], asset_RA]

    def _wired(self, out: Step) -> Int64Array:
        """Where the kernel writes a ledger.

        Raises  ContractError for columns that do not lie in one piece: what is written to a copy would be lost.
        """
        if out is self.last:
            return self._last_wires
        if not all(column.flags.c_contiguous for column in out):
            raise ContractError("step: expected columns of a ledger that lie in one piece, found strided ones; use empty_step")
        return wire(out)

    def step(self, request_EA: Float64Array, out: Step | None = None) -> Step:
        """Targets decided at the close of each account's bar t; carries all accounts to their bar t + 1.

        Shapes  request (E, A).
        Units   signed fractions of equity.
        NaN     keep what is held and what is working.
        Raises  ContractError when an account stands on the last bar.
        """
        step = self.last if out is None else out
        self.run(np.ascontiguousarray(request_EA, dtype=np.float64)[None], step, None)
        return step

    def advance(self, request_EA: Float64Array) -> None:
        """`step` without a ledger: of what happened only the accounts and `last.fill` tell."""
        self.run(np.ascontiguousarray(request_EA, dtype=np.float64)[None], None, None)

    def run(self, request_SEA: Float64Array, out: Step | None, books: Float64Array | None) -> None:
        """S steps of every account with requests that are known beforehand, in one call.

        Shapes  request (S, E, A); out (S, E, A), or (E, A) for the last step only; books (S, E, 4): cash, equity, peak and
                state of the rulebook after each step. Who needs none gives None.
        Raises  ContractError when an account would step past the last bar.
        """
        accounts = self.accounts
        last = self.market.ts_ns.size - 1
        num_steps = len(request_SEA)
        if accounts.t_E.max() + num_steps > last and np.any(accounts.t_E[~accounts.done_E] + num_steps > last):
            raise ContractError(f"step: an account stands on bar {accounts.t_E[~accounts.done_E].max()}, the last is {last}; reset it")
        flat = self._nothing if out is None else self._wired(out)
        rows = self._no_books if books is None else books.reshape(-1)
        request = without_shorts(request_SEA, self.margin).reshape(-1)
        little = out is None or (tells_little(out) and out.fill.size > accounts.asset_EA.size)  # calm bars write whole ledgers alone
        form = CALM if self._form == SPARE and little else self._form

        def carry(low: int, high: int, scratch: Int64Array) -> None:
            wires = (self._wires[0], self._wires[1], scratch, flat, self._wires[2])
            step_accounts(wires, self._scalars, request, num_steps, low, high, form, rows)

        if self._pool is None:
            for share in self._shares:
                carry(*share)
        else:
            for done in [self._pool.submit(carry, *share) for share in self._shares]:
                done.result()


def backtest(
    market: MarketArrays,
    target_TA: Float64Array,
    start: int,
    bar_ns: int,
    cfg: SimulationConfig,
    costs: CostsConfig,
    guard: GuardrailsConfig,
) -> Ledger:
    """One account over all assets of the market; row i of `target_TA` is decided at the close of bar start + i.

    Shapes  target (S, N), S steps; the ledger ends at the close of bar start + S.
    Raises  ContractError when the targets do not fit the market.
    """
    num_times, num_assets = market.tradable.shape
    if target_TA.ndim != 2 or target_TA.shape[1] != num_assets or not 0 < target_TA.shape[0] <= num_times - 1 - start:
        raise ContractError(f"targets: expected (1..{num_times - 1 - start}, {num_assets}), found {target_TA.shape}")
    env = open_account(market, start, bar_ns, cfg, costs, guard)
    recorder = Recorder(env.market, env.accounts, len(target_TA))
    env.run(np.ascontiguousarray(target_TA, dtype=np.float64)[:, None, :], *recorder.whole_run())
    recorder.close_run()
    return recorder.ledger()


def open_account(
    market: MarketArrays, start: int, bar_ns: int, cfg: SimulationConfig, costs: CostsConfig, guard: GuardrailsConfig
) -> Environment:
    """An environment with one account that holds every asset of the market in its own slot."""
    num_assets = market.tradable.shape[1]
    env = Environment(market, 1, num_assets, bar_ns, cfg, costs, guard)
    zero = np.zeros(1, dtype=np.int64)
    env.reset(zero, np.array([start], dtype=np.int64), np.arange(num_assets, dtype=np.int64)[None, :], zero)
    return env
