"""What a world is: light enough that thousands are held, complete enough that its bars can be made again wherever it stands."""

import zlib
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from plusultra_core.arrays import BoolArray, Int8Array, Int64Array
from plusultra_core.errors import ContractError
from plusultra_core.market import CostsConfig
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.simulation.records import MarketArrays
from plusultra_core.simulation.worlds.families import BootstrapConfig, CrisisConfig, EventConfig, PerturbationConfig, StressConfig
from plusultra_core.simulation.worlds.history import STATES, Crisis, block_rows, common_history, find_crises, present, volatility_states

GAP, JUMP, FUNDING = 0, 1, 2
EVENT_KINDS = {"gap": GAP, "jump": JUMP, "funding": FUNDING}
EVERY_ASSET = -1


class Factors(NamedTuple):
    """What a world multiplies."""

    sigma: float
    spread: float
    volume: float
    impact: float
    latency: float
    fee: float
    capital: float


UNCHANGED = Factors(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)


class Event(NamedTuple):
    """Something that strikes at step `step` of the span: 0 is the first bar after the first decision."""

    kind: int
    step: int
    num_steps: int
    asset: int
    size_frac: float


class Blocks(NamedTuple):
    """Rows of history in blocks: the law, and the name of the draws."""

    name: int
    number: int
    state: int
    """Volatility state that the rows are drawn from; -1: any."""
    block_bars: int
    fixed: bool


class World(NamedTuple):
    """One world of a stress. Without a crisis and without blocks its bars are the market's own."""

    family: str
    name: str
    factors: Factors
    events: tuple[Event, ...] = ()
    crisis: Crisis | None = None
    step: int = 0
    """Where the crisis begins."""
    blocks: Blocks | None = None

    @property
    def replaced(self) -> bool:
        """Other bars stand where the market's own were: no forecast was ever made in this world."""
        return self.crisis is not None or self.blocks is not None


class Past(NamedTuple):
    """What worlds are drawn from: the market, the decisions [start, end - 1), and what of history may come again."""

    market: MarketArrays
    start: int
    end: int
    eligible_T: BoolArray
    state_T: Int8Array
    seed: int
    counted_N: BoolArray
    """Assets with a history of their own: the others trade, where history comes again, only in those of its bars that they had."""

    @property
    def num_steps(self) -> int:
        """Bars after the first decision."""
        return self.end - 1 - self.start


CALM = World("calm", "calm", UNCHANGED)


def open_past(market: MarketArrays, start: int, end: int, min_assets_frac: float, seed: int) -> Past:
    """The past of a span whose first decision is taken at the close of bar `start` and whose last bar is end - 1.

    Raises  ContractError when the span does not lie in the market, or no asset trades in it.
    """
    if not 0 <= start < end - 1 <= market.ts_ns.size - 1:
        raise ContractError(f"worlds: expected 0 <= start < end - 1 < {market.ts_ns.size}, found {start} and {end}")
    if not market.tradable[start + 1 : end].any():
        raise ContractError(f"worlds: no asset has a bar after {start} and before {end}, so there is nothing to stress; end later")
    common = common_history(market, start, min_assets_frac)
    return Past(market, start, end, common.eligible_T, volatility_states(market, start, common.eligible_T), seed, common.counted_N)


def uncounted(past: Past) -> list[tuple[int, int, int]]:
    """Assets of the span that history is not counted on for: (asset, bars that it has before the span, first bar of all).

    They came too late, or had no bar of late; without one asset that is counted on, nothing of history comes again.
    """
    traded_TN = past.market.tradable
    trades_N = traded_TN[past.start : past.end].any(axis=0)
    found = np.flatnonzero(trades_N & ~past.counted_N).tolist()
    return [(n, int(traded_TN[: past.start, n].sum()), int(traded_TN[:, n].argmax())) for n in found]


def draw_worlds(past: Past, cfg: StressConfig, funding: bool) -> tuple[World, ...]:
    """Every world of a stress, the calm one first. Where the market charges no funding, perturbations of funding alone are left out."""
    worlds = [CALM]
    worlds += [CALM._replace(family="capacity", name=f"capacity/{f:g}", factors=UNCHANGED._replace(capital=f)) for f in cfg.capital_factors]
    for perturbation in cfg.perturbations:
        if funding or perturbation.factors or any(event.kind != "funding" for event in perturbation.events):
            worlds += perturb(past, perturbation)
    if past.eligible_T.any():
        worlds += replay(past, cfg.crises)
        worlds += resample(past, cfg.bootstrap)
    return tuple(worlds)


def perturb(past: Past, cfg: PerturbationConfig) -> list[World]:
    """The worlds of one perturbation; the numbers of a world depend on seed, name and index alone."""
    here_N = np.flatnonzero(present(past.market, past.start))
    worlds = []
    for index in range(cfg.num_worlds):
        rng = generator(past.seed, cfg.name, index)
        drawn = {
            name: float(np.exp(rng.uniform(np.log(low), np.log(high)))) if low < high else low for name, (low, high) in cfg.factors.items()
        }
        events = [event for item in cfg.events for event in _strike(item, rng, past.num_steps, here_N)]
        worlds.append(World(cfg.name, f"{cfg.name}/{index}", UNCHANGED._replace(**drawn), tuple(sorted(events, key=lambda e: e.step))))
    return worlds


def replay(past: Past, cfg: CrisisConfig) -> list[World]:
    """Every crisis that was found, laid over the span at evenly spread places; before and after it the market's own bars."""
    num_bars = min(cfg.num_bars, past.num_steps)
    places = np.unique(np.linspace(0, past.num_steps - num_bars, cfg.num_places).round().astype(np.int64)).tolist()
    found = find_crises(past.market, past.start, past.eligible_T, num_bars, cfg.num_windows)
    return [
        World("crisis", f"crisis/{crisis.rule}/{crisis.first}/{step}", UNCHANGED, crisis=crisis, step=step)
        for crisis in found
        for step in places
    ]


def resample(past: Past, cfg: BootstrapConfig) -> list[World]:
    """Worlds whose bars are rows of history in blocks: of all of it, and of each volatility state by itself."""
    fixed = cfg.kind == "circular"
    families = [("bootstrap", -1, cfg.num_worlds)]
    families += [(f"{name}_volatility", state, cfg.num_worlds_state) for state, name in enumerate(STATES) if (past.state_T == state).any()]
    return [
        World(family, f"{family}/{index}", UNCHANGED, blocks=Blocks(_name(family), index, state, cfg.block_bars, fixed))
        for family, state, count in families
        for index in range(count)
    ]


def source_rows(world: World, past: Past) -> Int64Array:
    """Rows of the market that the steps of a world are made of. Shapes  result (steps,)."""
    rows: Int64Array = np.arange(past.start + 1, past.end, dtype=np.int64)
    if world.crisis is not None:
        crisis = world.crisis
        rows[world.step : world.step + crisis.num_bars] = np.arange(crisis.first, crisis.first + crisis.num_bars)
    if world.blocks is not None:
        blocks = world.blocks
        uniform = generator(past.seed, blocks.name, blocks.number).random((2, past.num_steps))
        allowed_T = past.eligible_T if blocks.state < 0 else past.state_T == blocks.state
        rows = block_rows(allowed_T, uniform[0], uniform[1], blocks.block_bars, blocks.fixed)
    return rows


def stressed_costs(costs: CostsConfig, factors: Factors) -> CostsConfig:
    """Costs of a world."""
    fees = {name: getattr(costs, name) * factors.fee for name in ("fee_bps", "fee_min_ccy")}
    return replace(costs, **fees, impact_coef=costs.impact_coef * factors.impact)


def stressed_execution(cfg: SimulationConfig, factors: Factors) -> SimulationConfig:
    """Execution of a world; a rebate of resting orders does not grow with the fees."""
    rebate = cfg.maker_fee_factor < 0.0
    return replace(
        cfg,
        maker_fee_factor=cfg.maker_fee_factor / factors.fee if rebate else cfg.maker_fee_factor,
        latency_ms=tuple(ms * factors.latency for ms in cfg.latency_ms),
        permanent_coef=cfg.permanent_coef * factors.impact,
        initial_capital_ccy=cfg.initial_capital_ccy * factors.capital,
    )


def generator(seed: int, name: str | int, index: int) -> np.random.Generator:
    """Numbers by name: the same wherever and whenever they are drawn."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, name if isinstance(name, int) else _name(name), index))))


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high)))) if low < high else low


def _name(text: str) -> int:
    return zlib.crc32(text.encode())


def _strike(cfg: EventConfig, rng: np.random.Generator, num_steps: int, here_N: Int64Array) -> list[Event]:
    events = []
    for _ in range(cfg.num_events):
        step = min(int(rng.uniform(*cfg.at_frac) * num_steps), num_steps - 1)
        asset = int(rng.choice(here_N)) if cfg.scope == "asset" and here_N.size else EVERY_ASSET
        events.append(Event(EVENT_KINDS[cfg.kind], step, cfg.num_bars, asset, float(rng.uniform(*cfg.size_frac))))
    return events
