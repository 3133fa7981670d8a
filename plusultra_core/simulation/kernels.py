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
from plusultra_core.simulation.kernel.calm import Rows, run_path, run_rows, stand_beside, stand_calm
from plusultra_core.simulation.kernel.lanes import Has
from plusultra_core.simulation.kernel.single import step_single
from plusultra_core.simulation.kernel.slots import step_slots
from plusultra_core.simulation.kernel.wires import ask_bars, block_of, limits_of, rows_of, rules_of, scratch_of, step_of, world_of
from plusultra_core.simulation.records import Step
from plusultra_core.simulation.tiles import Block, World

COMPILED_WITH = "0a14c48daea7b188"
"""Digest of costs, tiles, records and the rulebook, which are compiled into this file: its cache on disk sees this file alone."""

SLOTS, FULL, USUAL, SPARE, CALM = 0, 1, 2, 3, 4
"""What is compiled: accounts of several slots; of one with everything; without limits, terms and lasting impact; without
latencies, impact, funding and borrow too; the same, and calm bars without the tile (`kernel/calm.py`)."""
MOST_WAIT = 64
"""Bars that are carried by the whole step, at most, before it is tried again whether they are calm."""


@njit(error_model="numpy", _nrt=False, forceinline=True)
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
    elif form >= SPARE:
        step_single(tile, whole, desk, clock, n, rules, limits, Has(False, False, False, False, False, False), True)
    elif form == FULL:
        step_single(tile, whole, desk, clock, n, rules, limits, Has(True, True, True, True, True, True), True)
    else:
        step_slots(tile, whole, desk, clock, num_slots, n, rules, limits, Has(True, True, True, True, True, True))


@njit(error_model="numpy", _nrt=False)
def step_calm(
    world: World, rows: Rows, block: Block, request: Float64Array, low: int, n: int, begin: int, num_steps: int, rules: Rules,
    limits: Limits, tile: Float64Array, out: Step, every: bool, books: Float64Array,
) -> int:  # fmt: skip
    """Carry accounts through the calm bars from step `begin` on; the number of bars that all of them went."""
    went, calm = 0, stand_calm(block, low, n)
    if calm and n == 1:
        went = run_path(world, block, request, low, begin, num_steps, rules, limits, out, every, books)
    elif calm and rows.close.size and stand_beside(block, low, n):
        went = run_rows(world, rows, block, request, low, n, begin, num_steps, rules, limits, tile, out, every, books)
    return went


@njit(cache=True, error_model="numpy", _nrt=False, nogil=True)
def step_accounts(
    wires: tuple[Int64Array, Int64Array, Int64Array, Int64Array, Int64Array], scalars: Float64Array, request: Float64Array,
    num_steps: int, low: int, high: int, form: int, books: Float64Array,
) -> None:  # fmt: skip
    """Carry accounts low to high through S bars, tile by tile, in place. Every array is flat.

    Shapes  wires of world, block, scratch, `out` and rows; request (S E A,); out (R E A,), R either S or 1: the last step only;
            books (S E 4,): cash, equity, peak, state; columns that nobody wants are empty.
    """
    world, block, scratch, out, rows = world_of(wires[0]), block_of(wires[1]), scratch_of(wires[2]), step_of(wires[3]), rows_of(wires[4])
    rules, limits = rules_of(scalars), limits_of(scalars)
    num_accounts, num_slots = block.t.size, block.asset.size // block.t.size
    size = num_accounts * num_slots
    told, every = out.status.size > 0, out.fill.size > size
    tile, whole, desk, clock = scratch.tile, scratch.whole, scratch.desk, scratch.clock
    for group in range(low, high, at.WIDE):
        above, begin, wait = min(group + at.WIDE, high), 0, 1
        while begin < num_steps:
            went = 0
            if form == CALM:
                went = step_calm(
                    world, rows, block, request, group, above - group, begin, num_steps, rules, limits, scratch.calm, out, every, books
                )
            begin += went
            wait = 1 if went > 0 else min(2 * wait, MOST_WAIT)
            end = min(begin + wait, num_steps) if form == CALM else num_steps
            for first in range(group, above if begin < end else group, at.LANES):
                n = min(at.LANES, above - first)
                ask_bars(world, block, first + n, min(at.LANES, high - first - n), num_slots)
                at.load_tile(block, first, n, num_slots, scratch)
                together = at.stand_together(block, first, n, num_slots)
                for step in range(begin, end):
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
            begin = end
