"""Accounts of one slot through many whole bars: those of a tile that stand on one bar, and those that stand anywhere.

Each is compiled apart from the whole step: beside it in one function the loops cost nearly twice as much.
"""

from numba import njit

from plusultra_core.arrays import Float64Array
from plusultra_core.guardrails.limits import Limits
from plusultra_core.simulation import tiles as at
from plusultra_core.simulation.costs import Rules
from plusultra_core.simulation.kernel.bars import bar_at, bar_of, bring, is_law, is_whole, law_of
from plusultra_core.simulation.kernel.calm import ROOM
from plusultra_core.simulation.kernel.lines import lay_books, lay_step
from plusultra_core.simulation.kernel.whole import stand_sound, step_whole
from plusultra_core.simulation.records import Step
from plusultra_core.simulation.tiles import Block, Scratch, World


@njit(error_model="numpy", _nrt=False, forceinline=True)
def close_step(
    scratch: Scratch, num_accounts: int, first: int, n: int, step: int, last: bool, out: Step, every: bool, books: Float64Array, far: bool
) -> None:  # fmt: skip
    """Accounts of one slot after a step: on their next bar, with rows of books and ledger. `last`: no step follows."""
    desk, clock, row = scratch.desk, scratch.clock, step * num_accounts + first
    for i in range(n):
        clock[at.BAR + i] += 1
    lay_books(books, row, desk[at.CASH :], desk[at.EQUITY :], desk[at.PEAK :], desk[at.STATE :], scratch.calm[ROOM:], n, far)
    if (out.fill.size > 0) & (every | last):
        lay_step(scratch, row if every else first, n, out, far)


@njit(error_model="numpy", _nrt=False)
def run_alike(
    world: World, block: Block, scratch: Scratch, request: Float64Array, first: int, n: int, begin: int, end: int, rules: Rules,
    limits: Limits, out: Step, every: bool, books: Float64Array, far: bool,
) -> int:  # fmt: skip
    """Carry accounts that stand on one bar through steps begin to end, as far as bars are whole; the number of steps."""
    s, w, desk, clock, told = scratch.tile, scratch.whole, scratch.desk, scratch.clock, out.fill.size > 0
    at.load_tile(block, first, n, 1, scratch, False)
    step, sound, law = begin, stand_sound(s, desk, n), law_of(world, 0, 1)
    while (step < end) & sound:
        bar, asked = bar_of(world, block.asset[first], clock[at.BAR], rules), request[step * block.t.size + first :]
        law = law if is_law(law, bar) else law_of(world, bar.now - bar.start, bar.after - bar.start)
        if not is_whole(bar, law.longest_ns):
            break
        if told:
            sound = step_whole(s, w, desk, clock, asked, n, bar, law, world.first_bar, rules, limits, False, True)
        elif n == 1:
            sound = step_whole(s, w, desk, clock, asked, 1, bar, law, world.first_bar, rules, limits, False, False)
        else:
            sound = step_whole(s, w, desk, clock, asked, n, bar, law, world.first_bar, rules, limits, False, False)
        close_step(scratch, block.t.size, first, n, step, step == end - 1, out, every, books, far)
        step += 1
    if step > begin:
        at.store_tile(block, first, n, 1, scratch, False)
    return step - begin


@njit(error_model="numpy", _nrt=False)
def run_apart(
    world: World, block: Block, scratch: Scratch, request: Float64Array, first: int, n: int, begin: int, end: int, rules: Rules,
    limits: Limits, out: Step, every: bool, books: Float64Array, far: bool,
) -> int:  # fmt: skip
    """Carry accounts that stand anywhere through steps begin to end, as far as the bars of all are whole; the number of steps."""
    s, w, desk, clock, told = scratch.tile, scratch.whole, scratch.desk, scratch.clock, out.fill.size > 0
    at.load_tile(block, first, n, 1, scratch, False)
    step, sound, law = begin, stand_sound(s, desk, n), law_of(world, 0, 1)
    while (step < end) & sound:
        if bring(world, block, first, n, scratch, law.longest_ns, rules):
            break
        bar, asked = bar_at(s, desk, clock, 0, rules), request[step * block.t.size + first :]
        if told:
            sound = step_whole(s, w, desk, clock, asked, n, bar, law, world.first_bar, rules, limits, True, True)
        else:
            sound = step_whole(s, w, desk, clock, asked, n, bar, law, world.first_bar, rules, limits, True, False)
        close_step(scratch, block.t.size, first, n, step, step == end - 1, out, every, books, far)
        step += 1
    if step > begin:
        at.store_tile(block, first, n, 1, scratch, False)
    return step - begin
