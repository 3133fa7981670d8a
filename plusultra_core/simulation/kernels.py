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
from plusultra_core.simulation.records import Step
from plusultra_core.simulation.tiles import Block, Scratch, World

COMPILED_WITH = "dff8f657740d3445"
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
    world: World,
    block: Block,
    request: Float64Array,
    num_steps: int,
    rows: tuple[int, int],
    rules: Rules,
    limits: Limits,
    form: int,
    scratch: Scratch,
    out: Step,
    books: Float64Array,
) -> None:
    """Carry accounts rows[0] to rows[1] through S bars, tile by tile, in place. Every array is flat.

    Shapes  request (S E A,); out (R E A,), R either S or 1: the last step only; books (S E 4,): cash, equity, peak, state; columns
            that nobody wants are empty.
    """
    num_accounts, num_slots = block.t.size, block.asset.size // block.t.size
    size = num_accounts * num_slots
    told, every = out.status.size > 0, out.fill.size > size
    tile, whole, desk, clock = scratch.tile, scratch.whole, scratch.desk, scratch.clock
    for low in range(rows[0], rows[1], at.LANES):
        n = min(at.LANES, rows[1] - low)
        at.load_tile(block, low, n, num_slots, scratch)
        together = at.stand_together(block, low, n, num_slots)
        for step in range(num_steps):
            at.read_times(world, desk, clock, n, together)
            for a in range(num_slots):
                s, w, first = (
                    tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT],
                    whole[a * at.NUM_WHOLE : (a + 1) * at.NUM_WHOLE],
                    low * num_slots + a,
                )
                at.take(request, step * size + first, num_slots, s[at.REQUEST :], n)
                at.read_bars(world, block.asset[first:], num_slots, s, clock, n, together)
                at.draw_latencies(world, s, w, clock, n)
            step_tile(tile, whole, desk, clock, num_slots, n, rules, limits, form, told)
            for i in range(n):
                clock[at.BAR + i] += 1
            first = (step * num_accounts + low) * 4
            for k in range(4):  # the desk begins with them
                at.put(books, first + k, 4, desk[k * at.LANES :], n)
            if every:
                at.store_step(scratch, step * size + low * num_slots, n, num_slots, out)
        if not every:
            at.store_step(scratch, low * num_slots, n, num_slots, out)
        at.store_tile(block, low, n, num_slots, scratch)
