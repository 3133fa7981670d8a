"""The step kernel: requested targets -> rulebook -> orders -> fills -> costs -> account. Every door of the simulator is this one.

Accounts are carried in tiles (`tiles.py`), one lane an account. The model of a lane stands in `kernel/lanes.py`; accounts of one
slot go through it in one pass (`kernel/single.py`), those of several slot by slot (`kernel/slots.py`). Lanes do not see one
another and nothing here draws but by name, so no result depends on batch, chunks or threads. `_nrt=False`: nothing allocates.
"""

from numba import njit

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.guardrails.limits import Limits
from plusultra_core.simulation import tiles as at
from plusultra_core.simulation.costs import Rules
from plusultra_core.simulation.kernel.lanes import Has
from plusultra_core.simulation.kernel.single import step_single
from plusultra_core.simulation.kernel.slots import step_slots
from plusultra_core.simulation.kernel.wires import ask_bars, block_of, limits_of, rules_of, scratch_of, step_of, world_of

COMPILED_WITH = "7f122814ec4bffe8"
"""Digest of costs, tiles, records and the rulebook, which are compiled into this file: its cache on disk sees this file alone."""

SLOTS, FULL, USUAL, SPARE = 0, 1, 2, 3
"""What is compiled: accounts of several slots; of one with everything; without limits, terms and lasting impact; without
latencies, impact, funding and borrow too."""


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def step_tile(
    tile: Float64Array, whole: Int64Array, desk: Float64Array, clock: Int64Array, num_slots: int, n: int, rules: Rules, limits: Limits,
    form: int, told: bool,
) -> None:  # fmt: skip
    """Carry the accounts of a tile from the close of their bar to that of the next, in place. The bars lie in the tile.

    The compiler makes one copy of the step for each line, without what its constants switch off.
    """
    if form == USUAL and told:
        step_single(tile, whole, desk, clock, n, rules, limits, Has(False, False, False, True, True, True), True)
    elif form == USUAL:
        step_single(tile, whole, desk, clock, n, rules, limits, Has(False, False, False, True, True, True), False)
    elif form == SPARE:
        step_single(tile, whole, desk, clock, n, rules, limits, Has(False, False, False, False, False, False), True)
    elif form == FULL:
        step_single(tile, whole, desk, clock, n, rules, limits, Has(True, True, True, True, True, True), True)
    else:
        step_slots(tile, whole, desk, clock, num_slots, n, rules, limits, Has(True, True, True, True, True, True))


@njit(cache=True, error_model="numpy", _nrt=False, nogil=True)
def step_accounts(
    wires: tuple[Int64Array, Int64Array, Int64Array, Int64Array], scalars: Float64Array, request: Float64Array, num_steps: int, low: int,
    high: int, form: int, books: Float64Array,
) -> None:  # fmt: skip
    """Carry accounts low to high through S bars, tile by tile, in place. Every array is flat.

    Shapes  wires of world, block, scratch and `out`; request (S E A,); out (R E A,), R either S or 1: the last step only; books
            (S E 4,): cash, equity, peak, state; columns that nobody wants are empty.
    """
    world, block, scratch, out = world_of(wires[0]), block_of(wires[1]), scratch_of(wires[2]), step_of(wires[3])
    rules, limits = rules_of(scalars), limits_of(scalars)
    num_accounts, num_slots = block.t.size, block.asset.size // block.t.size
    size = num_accounts * num_slots
    told, every = out.status.size > 0, out.fill.size > size
    tile, whole, desk, clock = scratch.tile, scratch.whole, scratch.desk, scratch.clock
    for first in range(low, high, at.LANES):
        n = min(at.LANES, high - first)
        ask_bars(world, block, first + n, min(at.LANES, high - first - n), num_slots)
        at.load_tile(block, first, n, num_slots, scratch)
        together = at.stand_together(block, first, n, num_slots)
        for step in range(num_steps):
            at.read_tile(world, block, request[step * size :], first, n, num_slots, together, scratch)
            step_tile(tile, whole, desk, clock, num_slots, n, rules, limits, form, told)
            for i in range(n):
                clock[at.BAR + i] += 1
            row = (step * num_accounts + first) * 4
            for k in range(4):  # the desk begins with them
                at.put(books, row + k, 4, desk[k * at.LANES :], n)
            if every:
                at.store_step(scratch, step * size + first * num_slots, n, num_slots, out)
        if told and not every:
            at.store_step(scratch, first * num_slots, n, num_slots, out)
        at.store_tile(block, first, n, num_slots, scratch)
