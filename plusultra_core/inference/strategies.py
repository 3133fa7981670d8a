"""Every strategy that is compared, each a function from the account of now to targets, all through one kernel."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array
from plusultra_core.errors import ArtifactError
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.inference.decide import Book, PolicyDesk, SizingConfig, size_forecast
from plusultra_core.market import CostsConfig
from plusultra_core.simulation.engine import Environment, SimulationConfig, open_account
from plusultra_core.simulation.ledger import Ledger, Recorder
from plusultra_core.simulation.records import MarketArrays, Step, empty_step
from plusultra_core.simulation.sizing import working_weights
from plusultra_core.windows.panel import Panel

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
MODELS = ("hybrid", "linear")

Decide = Callable[[int, Environment, Step], Float64Array]
"""(bar, environment, what its last step did) -> targets (1, A)."""


class Setting(NamedTuple):
    """The market and the rules of a run."""

    market: MarketArrays
    bar_ns: int
    simulation: SimulationConfig
    costs: CostsConfig
    guard: GuardrailsConfig


def run_strategy(setting: Setting, span: tuple[int, int], decide: Decide) -> Ledger:
    """One account from the close of bar span[0] to that of bar span[1] - 1, one decision a bar."""
    env = open_account(setting.market, span[0], setting.bar_ns, setting.simulation, setting.costs, setting.guard)
    recorder = Recorder(env.market, env.accounts, span[1] - 1 - span[0])
    last = empty_step(env.accounts.asset_EA.shape)
    for t in range(span[0], span[1] - 1):  # a decision needs the account that the bar before left
        step = recorder.next_step()
        env.step(decide(t, env, last), step)
        recorder.close_step()
        last = step
    return recorder.ledger()


def unguarded(setting: Setting) -> Setting:
    """The same without limits, for baselines that are what they are: fully invested, and through every drawdown."""
    guard = replace(
        setting.guard,
        max_weight=1.0,
        max_gross=1.0,
        max_net=1.0,
        max_participation=1e9,
        reduce_drawdown=1.0,
        resume_drawdown=1.0,
        halt_drawdown=1.0,
    )
    return setting._replace(guard=guard)


def no_trade(t: int, env: Environment, last: Step) -> Float64Array:
    """Cash."""
    return np.zeros(env.accounts.asset_EA.shape)


def buy_and_hold(setting: Setting, span: tuple[int, int]) -> Decide:
    """Every asset once, at its first bar of the span, each with an equal part of the equity; then nothing."""
    traded_TA = setting.market.tradable[span[0] : span[1] - 1]
    first_A = np.where(traded_TA.any(axis=0), traded_TA.argmax(axis=0), -1) + span[0]
    num_assets = max(1, int(traded_TA.any(axis=0).sum()))
    never_A = ~traded_TA.any(axis=0)

    def decide(t: int, env: Environment, last: Step) -> Float64Array:
        request: Float64Array = np.where((first_A == t) & ~never_A, 1.0 / num_assets, np.nan)
        return request[None]

    return decide


def book_of(t: int, env: Environment, horizon_bars: int) -> Book:
    """What a rule knows of its account and of the market at the close of bar t."""
    accounts, market = env.accounts, env.market
    return Book(
        accounts.weight_EA[0], working_weights(accounts)[0], market.sigma[t], market.adv_ccy[t], market.half_spread_bps[t],
        float(accounts.equity_E[0]), env.rules, horizon_bars, env.margin.shorts,
    )  # fmt: skip


def sized(quantiles_TAQ: Float64Array, first: int, horizon_bars: int, guard: GuardrailsConfig, cfg: SizingConfig) -> Decide:
    """The sizing rule on the forecasts of one model for one horizon; row 0 of the quantiles is bar `first`."""

    def decide(t: int, env: Environment, last: Step) -> Float64Array:
        book = book_of(t, env, horizon_bars)
        return size_forecast(quantiles_TAQ[t - first], LEVELS, book, guard.max_weight, guard.max_gross, cfg)[None]

    return decide


def random_like(model: Ledger, present_TA: BoolArray, first: int, seed: int, shorts: bool) -> Decide:
    """Weights without a view, of the size and the turnover of `model`: drawn at once, redrawn as seldom as
    that it trades as much; none below 0 where nothing can be sold short."""
    account = model.account()
    num_present = max(1.0, float(present_TA.sum(axis=1).mean()))
    size = 2.0 * float(account["gross"][1:].mean() / account["equity"][:-1].mean()) / num_present
    low = -size if shorts else 0.0
    per_redraw = num_present * (size - low) / 3.0
    probability = min(1.0, float(account["turnover"][1:].mean()) / per_redraw) if per_redraw > 0 else 0.0
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
    draw_TA = rng.uniform(low, size, present_TA.shape)
    redrawn_TA = (rng.uniform(size=present_TA.shape) < probability) & present_TA
    redrawn_TA |= present_TA & (np.cumsum(present_TA, axis=0) == 1)
    request_TA: Float64Array = np.where(redrawn_TA, draw_TA, np.nan)
    return lambda t, env, last: request_TA[t - first][None]


def by_policy(desk: PolicyDesk, first: int) -> Decide:
    """The policy on every asset at once."""
    start_E: Int64Array = np.array([first], dtype=np.int64)
    return lambda t, env, last: desk.decide(env.accounts, last, start_E)


def read_quantiles(path: Path, panel: Panel, model: str, span: tuple[int, int], horizon_index: int) -> Float64Array:
    """Quantiles of one model out of forecasts.parquet on the panel's grid; NaN where there is no forecast.

    Shapes  result (span, N, Q).
    Raises  ArtifactError when the table cannot be read, lacks a column or the model, names symbols or times that the panel does not have,
            or one of them twice.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if horizon_index >= len(panel.horizons):
        raise ArtifactError(
            f"sizing.horizon_index: expected below {len(panel.horizons)}, found {horizon_index}; the panel has {panel.horizons}"
        )
    names = [f"q_{round(100 * level):02d}" for level in LEVELS]
    try:
        table = pq.read_table(path, columns=["symbol", "ts_ns", "model", "horizon", *names])
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{path}: not a table of forecasts with {names} ({str(error)[:100]}); forecast again") from error
    table = table.filter(pc.field("model") == model).filter(pc.field("horizon") == panel.horizons[horizon_index])
    if not table.num_rows:
        raise ArtifactError(f"{path}: no forecasts of model {model!r}; forecast again")
    place = {symbol: n for n, symbol in enumerate(panel.symbols)}
    ts_B = table["ts_ns"].to_numpy()
    t_B = np.searchsorted(panel.ts_ns_T, ts_B)
    n_B = np.array([place.get(symbol, -1) for symbol in table["symbol"].to_pylist()], dtype=np.int64)
    if n_B.min() < 0 or t_B.max() >= len(panel.ts_ns_T) or not np.array_equal(panel.ts_ns_T[t_B], ts_B):
        raise ArtifactError(f"{path}: forecasts of symbols or times that the panel does not have; forecast again from these windows")
    if twice := ts_B.size - np.unique(t_B * len(panel.symbols) + n_B).size:
        raise ArtifactError(f"{path}: {twice} forecasts of one symbol and time stand twice; forecast again")
    quantiles_TNQ: Float64Array = np.full((len(panel.ts_ns_T), len(panel.symbols), len(LEVELS)), np.nan)
    quantiles_TNQ[t_B, n_B] = np.stack([table[name].to_numpy() for name in names], axis=1)
    return quantiles_TNQ[span[0] : span[1]]
