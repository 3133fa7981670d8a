"""The third door of the kernel: S worlds x P policies in one call. Chunk by chunk, so that memory does not grow with S."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from plusultra_core.arrays import Float32Array, Float64Array, Int64Array
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.market import CostsConfig, MarginConfig
from plusultra_core.simulation.costs import Rules
from plusultra_core.simulation.engine import Environment, SimulationConfig
from plusultra_core.simulation.records import Accounts, MarketArrays, Step, empty_step
from plusultra_core.simulation.tiles import LANES, NUM_SLOT, NUM_WHOLE
from plusultra_core.simulation.worlds.layout import Ground, apart, empty_bars, lay_worlds, open_ground
from plusultra_core.simulation.worlds.specs import Factors, Past, World, stressed_costs, stressed_execution
from plusultra_core.simulation.worlds.tally import NUMBERS, TERMS, Tally

_BLOCK_STEPS = 64
"""Bars of a call: their requests and books lie in the cache."""
_LEDGER_STEPS = 16
_SCRATCH_BYTES = 8 * (NUM_SLOT + NUM_WHOLE)
"""Of the tile of a thread, for each asset."""


class Seat(NamedTuple):
    """What a rule that decides bar by bar sees: accounts and market as an environment shows them, bars counted as in the calm market."""

    accounts: Accounts
    market: MarketArrays
    rules: Rules
    margin: MarginConfig


class View(NamedTuple):
    """A chunk of worlds at a bar: account e stands in world e. `accounts` name assets as the calm market does."""

    accounts: Accounts
    markets: tuple[MarketArrays, ...]
    """Of each world."""
    rules: Rules
    margin: MarginConfig

    def seat(self, e: int) -> Seat:
        """The world of account e by itself, for rules that know one account."""
        return Seat(Accounts._make(field[e : e + 1] for field in self.accounts), self.markets[e], self.rules, self.margin)


Loop = Callable[[int, View, Step], Float64Array]
"""(bar, view, what the last step did) -> targets (E, A)."""


class Player(NamedTuple):
    """A policy and how it decides."""

    name: str
    guard: GuardrailsConfig
    target_KA: Float64Array
    """What it decided in the calm world, one row a step; NaN: keep. Asked for wherever there is no loop."""
    open_loop: Callable[[int], Loop] | None = None
    """Opens a loop for so many accounts, which decides in worlds whose bars are still the market's own. What a policy remembers of
    its accounts belongs to the loop; chunks on several threads have a loop each."""


class Terms(NamedTuple):
    """The rules of the calm world."""

    bar_ns: int
    simulation: SimulationConfig
    costs: CostsConfig


class Scenarios(NamedTuple):
    """What came out. Shapes  numbers (S, P) each, looped (S, P), path (S, P, points)."""

    worlds: tuple[World, ...]
    players: tuple[str, ...]
    numbers: dict[str, Float64Array]
    looped_SP: Any
    """Whether the policy decided in this world by what it saw there; else its targets are those of the calm world."""
    path_SPK: Float32Array
    """Equity over capital at the close of some bars."""
    path_steps_K: Int64Array
    """Steps after which the points of the path stand; 0 is the start."""


class Chunk(NamedTuple):
    """Worlds that share the rules of execution, and the policies that are carried through them together."""

    rows_W: tuple[int, ...]
    players_P: tuple[int, ...]
    looped: bool


def run_scenarios(
    past: Past,
    worlds: Sequence[World],
    players: Sequence[Player],
    terms: Terms,
    path_points: int,
    chunk_mib: int,
    num_threads: int,
    with_costs: bool,
) -> Scenarios:
    """Every policy through every world, each with an account of its own.

    A policy with a loop decides by what it sees where the bars are the market's own; where other bars replaced them, and without
    a loop, its targets are those of the calm world. All accounts draw their latencies by the same names, so that worlds differ
    by nothing else. No number depends on chunks or threads.
    Shapes  target (K, A) of each policy, K decisions from bar past.start on.
    Raises  ContractError for targets that do not fit the span; ConfigError where one world with one account is more than `chunk_mib`.
    """
    worlds, num_steps, num_assets = tuple(worlds), past.num_steps, past.market.close.shape[1]
    for player in players:
        if player.target_KA.shape != (num_steps, num_assets):
            raise ContractError(f"{player.name}: expected targets of {num_steps, num_assets}, found {player.target_KA.shape}")
    path_steps_K = np.unique(np.linspace(0, num_steps, min(path_points, num_steps + 1)).round().astype(np.int64))
    shape, names = (len(worlds), len(players)), (*NUMBERS, *TERMS) if with_costs else NUMBERS
    numbers = {name: np.zeros(shape) for name in names}
    found = Scenarios(worlds, tuple(p.name for p in players), numbers, np.zeros(shape, np.bool_),
                      np.zeros((*shape, path_steps_K.size), np.float32), path_steps_K)  # fmt: skip
    sweep = Sweep(past, found, players, terms, with_costs)
    chunks = list(sweep.chunks(chunk_mib))
    if num_threads == 1:
        for chunk in chunks:
            sweep.carry(chunk)
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            for done in [pool.submit(sweep.carry, chunk) for chunk in chunks]:
                done.result()
    return found


class Sweep:
    """Carries chunks; each thread has memory for one."""

    def __init__(self, past: Past, found: Scenarios, players: Sequence[Player], terms: Terms, with_costs: bool) -> None:
        self._past, self._found, self._players, self._terms, self._with_costs = past, found, players, terms, with_costs
        self._num_assets = int(past.market.close.shape[1])
        self._grounds = {False: open_ground(past, whole=False)}
        if any(player.open_loop for player in players):
            self._grounds[True] = open_ground(past, whole=True)  # a rule may look back
        self._memory = threading.local()

    def chunks(self, chunk_mib: int) -> Iterator[Chunk]:
        """Worlds with the same rules, as many as memory and the lanes of a tile hold, for the policies of each rulebook.

        Where one world with all policies of a rulebook is more than a chunk, its policies are carried one part after the other.
        Raises  ConfigError where it is more with one of them.
        """
        worlds, players = self._found.worlds, self._players

        def law(w: int) -> tuple[tuple[float, ...], bool]:
            factors = worlds[w].factors
            return (factors.impact, factors.latency, factors.fee, factors.capital), worlds[w].replaced

        for (_, replaced), rows in groupby(sorted(range(len(worlds)), key=law), key=law):
            same = tuple(rows)
            fixed = [p for p, player in enumerate(players) if replaced or player.open_loop is None]
            groups = [((p,), True) for p in range(len(players)) if p not in fixed]
            by_guard = groupby(sorted(fixed, key=lambda p: repr(players[p].guard)), key=lambda p: repr(players[p].guard))
            for whole, looped in [*groups, *((tuple(found), False) for _, found in by_guard)]:
                most = self._most_players(looped, chunk_mib)
                for group in (whole[first : first + most] for first in range(0, len(whole), most)):
                    width = max(1, min(self._room(chunk_mib) // self._bytes(looped, len(group)), LANES // len(group)))
                    for first in range(0, len(same), width):
                        yield Chunk(same[first : first + width], group, looped)

    def _most_players(self, looped: bool, chunk_mib: int) -> int:
        """Policies that one world has room for in a chunk; at least one.

        Raises  ConfigError where it has room for none.
        """
        room, ground, num_assets = self._room(chunk_mib), self._grounds[looped], self._num_assets
        if self._bytes(looped, 1) > room:
            least_mib = -(-(self._bytes(looped, 1) + num_assets * _SCRATCH_BYTES) >> 20)
            raise ConfigError(
                f"stress.chunk_mib: one world of {ground.num_rows} bars x {num_assets} assets takes {least_mib} MiB, found {chunk_mib}; "
                f"set it to {least_mib} or more (each of num_threads takes as much), or stress fewer assets"
            )
        return (room - ground.bytes_per_world) // (self._bytes(looped, 1) - ground.bytes_per_world)

    def _room(self, chunk_mib: int) -> int:
        return (chunk_mib << 20) - self._num_assets * _SCRATCH_BYTES

    def _bytes(self, looped: bool, num_players: int) -> int:
        """Memory of a world with the accounts of so many policies."""
        return self._grounds[looped].bytes_per_world + num_players * self._num_assets * self._bytes_per_slot(looped)

    def _bytes_per_slot(self, looped: bool) -> int:
        """Memory of an asset of an account: its state, and what a call of some steps is asked and writes."""
        steps = 1 if looped else _LEDGER_STEPS if self._with_costs else _BLOCK_STEPS
        return 8 * (len(Accounts._fields) + len(Step._fields) + steps * (1 + 2 * self._with_costs * len(Step._fields)))

    def carry(self, chunk: Chunk) -> None:
        """Lay the worlds of a chunk, carry its accounts through them, keep their numbers."""
        ground = self._grounds[chunk.looped]
        worlds = tuple(self._found.worlds[w] for w in chunk.rows_W)
        market = lay_worlds(ground, worlds, self._bars(ground, len(worlds)))
        players = [self._players[p] for p in chunk.players_P]
        env = self._environment(ground, market, worlds[0].factors, players[0].guard, len(worlds), len(players))
        tally = Tally(env.cfg.initial_capital_ccy, len(worlds) * len(players), self._found.path_steps_K)
        if chunk.looped:
            self._decide(env, tally, players[0], len(worlds))
        else:
            self._replay(env, tally, np.stack([player.target_KA for player in players], axis=1), len(worlds))
        numbers = tally.numbers(env.accounts.done_E) | (tally.terms() if self._with_costs else {})
        at = np.ix_(chunk.rows_W, chunk.players_P)
        for name, values_E in numbers.items():
            self._found.numbers[name][at] = values_E.reshape(len(worlds), len(players))
        self._found.looped_SP[at] = chunk.looped
        self._found.path_SPK[at] = tally.path_EP.reshape(len(worlds), len(players), -1)

    def _environment(
        self, ground: Ground, market: MarketArrays, factors: Factors, guard: GuardrailsConfig, num_worlds: int, num_players: int
    ) -> Environment:
        """Accounts of all worlds and policies, world after world, at the start."""
        num_assets, num_accounts = ground.mark_N.size, num_worlds * num_players
        terms = self._terms
        cfg, costs = stressed_execution(terms.simulation, factors), stressed_costs(terms.costs, factors)
        env = Environment(market, num_accounts, num_assets, terms.bar_ns, cfg, costs, guard, first_bar=ground.head)
        names_EA = np.tile(np.arange(num_assets, dtype=np.int64), (num_accounts, 1))
        asset_EA = names_EA + num_assets * np.repeat(np.arange(num_worlds, dtype=np.int64), num_players)[:, None]
        zero_E = np.zeros(num_accounts, dtype=np.int64)
        env.reset(np.arange(num_accounts), zero_E + (ground.past.start - ground.head), asset_EA, zero_E, names_EA)
        return env

    def _replay(self, env: Environment, tally: Tally, target_KPA: Float64Array, num_worlds: int) -> None:
        """Targets that are known beforehand, the same in every world."""
        num_steps, num_players, num_assets = target_KPA.shape
        block = _LEDGER_STEPS if self._with_costs else _BLOCK_STEPS
        request = np.empty((block, num_worlds, num_players, num_assets))
        books = np.empty((block, num_worlds * num_players, 4))
        out = empty_step((block, num_worlds * num_players, num_assets)) if self._with_costs else None
        for first in range(0, num_steps, block):
            n = min(block, num_steps - first)
            request[:n] = target_KPA[first : first + n, None]
            part = out if out is None or n == block else Step._make(field[:n] for field in out)
            env.run(request[:n].reshape(n, num_worlds * num_players, num_assets), part, books[:n])
            tally.add_books(books[:n])
            if part is not None:
                tally.add_step(part, given_back(env, n, num_steps - tally.steps))

    def _decide(self, env: Environment, tally: Tally, player: Player, num_worlds: int) -> None:
        """One decision a bar by what the policy sees in each world."""
        assert player.open_loop is not None
        loop = player.open_loop(num_worlds)
        num_assets = player.target_KA.shape[1]
        names_EA = np.tile(np.arange(num_assets, dtype=np.int64), (num_worlds, 1))
        markets = apart(env.market, num_worlds)
        books, last = np.empty((1, num_worlds, 4)), empty_step((num_worlds, num_assets))
        for k in range(self._past.num_steps):
            view = View(env.accounts._replace(asset_EA=names_EA), markets, env.rules, env.margin)
            request = np.ascontiguousarray(loop(self._past.start + k, view, last), dtype=np.float64)
            env.run(request[None], last, books)
            tally.add_books(books)
            if self._with_costs:
                tally.add_step(Step._make(field[None] for field in last), given_back(env, 1, self._past.num_steps - tally.steps))

    def _bars(self, ground: Ground, num_worlds: int) -> dict[str, Any]:
        """This thread's memory for worlds on any ground, made anew only where it is too small."""
        held: dict[str, Any] = getattr(self._memory, "bars", {})
        if not held or held["close"].size < num_worlds * ground.num_rows * ground.mark_N.size:
            held.clear()  # what is too small is let go before there is more
            held.update(empty_bars(ground, num_worlds))
            self._memory.bars = held
        return dict(held)


def given_back(env: Environment, num_steps: int, num_left: int) -> Float64Array | None:
    """What the rate made of a unit in some steps, so many before the last bar, and is given back: (S, E, A); None where nothing is."""
    market, accounts = env.market, env.accounts
    if not market.margined.any():
        return None
    after = market.ts_ns.size - num_left
    moved = market.translation[after - num_steps : after]
    return np.where(market.margined, moved, 0.0)[:, accounts.asset_EA]
