"""The step kernel: requested targets -> rulebook -> orders -> fills -> costs -> account. Every door of the simulator is this one.

Accounts are carried in tiles (`tiles.py`), one lane an account. The model of a lane stands in `kernel/lanes.py`; accounts of one
slot go through it in one pass (`kernel/single.py`), those of several slot by slot (`kernel/slots.py`). Much of the model is left
out where it cannot matter, for accounts that stand before whole bars (`kernel/whole.py`) and on bars where orders fill at
once (`kernel/calm.py`), with the same numbers. Lanes do not see one another and nothing here draws but by name, so no result
depends on batch, chunks or threads. `_nrt=False`: nothing allocates.
"""

from numba import njit

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.guardrails.limits import Limits
from plusultra_core.simulation import tiles as at
from plusultra_core.simulation.costs import Rules
from plusultra_core.simulation.kernel.bars import is_known
from plusultra_core.simulation.kernel.calm import ROOM, Rows, run_path, run_rows, stand_beside, stand_calm
from plusultra_core.simulation.kernel.lanes import Has
from plusultra_core.simulation.kernel.lines import lay_books, lay_slots, num_written, settle_lines
from plusultra_core.simulation.kernel.runs import close_step, run_alike, run_apart
from plusultra_core.simulation.kernel.single import step_single
from plusultra_core.simulation.kernel.slots import step_slots
from plusultra_core.simulation.kernel.wires import ask_bars, block_of, limits_of, rows_of, rules_of, scratch_of, step_of, world_of
from plusultra_core.simulation.records import Step
from plusultra_core.simulation.tiles import Block, Scratch, World

COMPILED_WITH = "41061b6e01a95480"
"""Digest of costs, tiles, records, the rulebook and `kernel/`, which are compiled into this file: its cache on disk sees this alone."""

SLOTS, FULL, USUAL, SPARE, CALM = 0, 1, 2, 3, 4
"""What is compiled: accounts of several slots; of one with everything; without limits, terms and lasting impact; without
latencies, impact, funding and borrow too; the same, and calm bars without the tile (`kernel/calm.py`)."""
FAR = 1 << 19
"""Numbers of a ledger beyond which it is streamed past the cache."""
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
    limits: Limits, tile: Float64Array, out: Step, every: bool, books: Float64Array, far: bool,
) -> int:  # fmt: skip
    """Carry accounts through the calm bars from step `begin` on; the number of bars that all of them went."""
    went, calm = 0, stand_calm(block, low, n)
    if calm and n == 1:
        went = run_path(world, block, request, low, begin, num_steps, rules, limits, out, every, books)
    elif calm and rows.close.size and stand_beside(block, low, n):
        went = run_rows(world, rows, block, request, low, n, begin, num_steps, rules, limits, tile, out, every, books, far)
    return went


@njit(error_model="numpy", _nrt=False)
def run_tile(
    world: World, block: Block, scratch: Scratch, request: Float64Array, first: int, n: int, num_slots: int, begin: int, end: int,
    rules: Rules, limits: Limits, form: int, out: Step, every: bool, books: Float64Array, far: bool,
) -> None:  # fmt: skip
    """Carry the accounts of one tile through steps begin to end, with everything that the form has."""
    size, num_accounts, told = block.asset.size, block.t.size, out.fill.size > 0
    tile, whole, desk, clock = scratch.tile, scratch.whole, scratch.desk, scratch.clock
    at.load_tile(block, first, n, num_slots, scratch, form < USUAL)
    alike = at.stand_together(block, first, n, num_slots)
    for step in range(begin, end):
        at.read_tile(world, block, request[step * size :], first, n, num_slots, alike, scratch)
        step_tile(tile, whole, desk, clock, num_slots, n, rules, limits, form, told)
        if num_slots == 1:
            close_step(scratch, num_accounts, first, n, step, step == end - 1, out, every, books, far)
        else:
            for i in range(n):
                clock[at.BAR + i] += 1
            row = step * num_accounts + first
            lay_books(books, row, desk[at.CASH :], desk[at.EQUITY :], desk[at.PEAK :], desk[at.STATE :], scratch.calm[ROOM:], n, far)
            if told & (every | (step == end - 1)):
                lay_slots(scratch, (step * size if every else 0) + first * num_slots, n, num_slots, out)
    at.store_tile(block, first, n, num_slots, scratch, form < USUAL)


@njit(error_model="numpy", _nrt=False)
def run_group(
    world: World, rows: Rows, block: Block, scratch: Scratch, request: Float64Array, low: int, above: int, high: int, num_slots: int,
    begin: int, end: int, rules: Rules, limits: Limits, form: int, out: Step, every: bool, books: Float64Array, far: bool,
) -> None:  # fmt: skip
    """Carry accounts low to above through steps begin to end: bars that are calm in one go, the others tile by tile, whole ones quickly."""
    wait, known = 1, (form >= USUAL) & is_known(world, rules)
    while begin < end:
        went = 0
        if form == CALM:
            went = step_calm(world, rows, block, request, low, above - low, begin, end, rules, limits, scratch.calm, out, every, books, far)
        begin += went
        wait = 1 if went > 0 else min(2 * wait, MOST_WAIT)
        stop = min(begin + wait, end) if form == CALM else end
        for first in range(low, above if begin < stop else low, at.LANES):
            n = min(at.LANES, above - first)
            alike, step, pause = known and at.stand_together(block, first, n, 1), begin, 1
            if known:
                ask_bars(world, block, first + n, min(at.LANES, high - first - n), 1)
            else:
                ask_bars(world, block, first + n, min(at.LANES, high - first - n), num_slots)
            while step < stop:
                went = 0
                if alike:
                    went = run_alike(world, block, scratch, request, first, n, step, stop, rules, limits, out, every, books, far)
                elif known:
                    went = run_apart(world, block, scratch, request, first, n, step, stop, rules, limits, out, every, books, far)
                step += went
                pause = 1 if went > 0 else min(2 * pause, MOST_WAIT)
                until = min(step + pause, stop) if known else stop
                if step < until:
                    run_tile(world, block, scratch, request, first, n, num_slots, step, until, rules, limits, form, out, every, books, far)
                step = until
        begin = stop


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
    num_slots = block.asset.size // block.t.size
    every = out.fill.size > block.asset.size
    far = num_written(out) * every + books.size > FAR
    for group in range(low, high, at.WIDE):
        above, begin, wait = min(group + at.WIDE, high), 0, 1
        while begin < num_steps:
            went = 0
            if (form == CALM) & (above - group > at.NARROW):
                went = step_calm(
                    world, rows, block, request, group, above - group, begin, num_steps, rules, limits, scratch.calm, out, every, books,
                    far,
                )  # fmt: skip
            begin += went
            wait = 1 if went > 0 else min(2 * wait, MOST_WAIT)
            end = min(begin + wait, num_steps) if (form == CALM) & (above - group > at.NARROW) else num_steps
            for first in range(group, above if begin < end else group, at.NARROW):
                run_group(
                    world, rows, block, scratch, request, first, min(first + at.NARROW, above), high, num_slots, begin, end, rules, limits,
                    form, out, every, books, far,
                )  # fmt: skip
            begin = end
    settle_lines()
