"""Lines of the cache: the hint that one is needed soon, and rows of a ledger that are written past it.

A ledger is far larger than the cache and nobody reads it before it is whole. A plain store first fetches the line that it fills,
so that every number travels twice; a streamed one sends whole lines to memory (44 instead of 11 GB/s). It asks for places that
begin with a line, which `records.empty_step` sees to where the number of accounts is a multiple of eight; others are stored plainly.
"""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from plusultra_core.arrays import Float64Array
from plusultra_core.simulation import tiles as at
from plusultra_core.simulation.records import Step
from plusultra_core.simulation.tiles import Scratch

LINE = 8
"""Numbers in a line."""
NUM_BOOKS = 4
"""Of an account after a step: cash, equity, peak, state."""


@intrinsic  # type: ignore[untyped-decorator]
def ask(typing: Any, array: Any, place: Any) -> Any:
    """A hint that element `place` of a flat array is needed soon; harmless wherever it points."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, value=arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        hint = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], kind)
        builder.call(hint, [address, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), build


@intrinsic  # type: ignore[untyped-decorator]
def stream_line(typing: Any, outside: Any, place: Any, inside: Any, first: Any) -> Any:
    """Eight numbers from element `first` of one flat array to element `place` of another, past the cache; both begin with a line."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        line = ir.VectorType(ir.IntType(64), LINE).as_pointer()
        spots = []
        for k in (0, 2):
            data = context.make_array(signature.args[k])(context, builder, value=arguments[k]).data
            spots.append(builder.bitcast(builder.gep(data, [arguments[k + 1]]), line))
        stored = builder.store(builder.load(spots[1], align=64), spots[0], align=64)
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(outside, types.intp, inside, types.intp), build


@intrinsic  # type: ignore[untyped-decorator]
def settle_lines(typing: Any) -> Any:
    """Wait until lines that were streamed have arrived: other threads may read them then."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), build


@intrinsic  # type: ignore[untyped-decorator]
def begins_line(typing: Any, array: Any, place: Any) -> Any:
    """Whether element `place` of a flat array begins with a line."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, value=arguments[0]).data
        address = builder.ptrtoint(builder.gep(data, [arguments[1]]), ir.IntType(64))
        return builder.icmp_unsigned("==", builder.and_(address, ir.Constant(ir.IntType(64), 63)), ir.Constant(ir.IntType(64), 0))

    return types.boolean(array, types.intp), build


@njit(error_model="numpy", _nrt=False, forceinline=True)
def lay(outside: Any, place: int, inside: Any, first: int, n: int, far: bool) -> None:
    """A field of a tile into a row of a ledger; nothing into an empty one. `far`: nobody reads it soon."""
    if outside.size == 0:
        return
    if far & (n % LINE == 0) & begins_line(outside, place):
        for i in range(0, n, LINE):
            stream_line(outside, place + i, inside, first + i)
    else:
        at.put(outside, place, 1, inside[first:], n)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def lay_books(books: Float64Array, row: int, cash: Float64Array, equity: Float64Array, peak: Float64Array, state: Float64Array,
              room: Float64Array, n: int, far: bool) -> None:  # fmt: skip
    """Money and state of accounts into rows of `books`. `room` is for n of them, and begins with a line."""
    if books.size == 0:
        return
    for i in range(n):
        line = room[NUM_BOOKS * i : NUM_BOOKS * i + NUM_BOOKS]
        line[0], line[1], line[2], line[3] = cash[i], equity[i], peak[i], state[i]
    lay(books, NUM_BOOKS * row, room, 0, NUM_BOOKS * n, far)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def lay_step(scratch: Scratch, row: int, n: int, out: Step, far: bool) -> None:
    """What a step did to accounts of one slot into rows of a ledger, from element `row` on."""
    s, w = scratch.tile, scratch.whole
    lay(out.request, row, s, at.REQUEST, n, far)
    lay(out.target, row, s, at.TARGET, n, far)
    at.put(out.guard, row, 1, s[at.GUARD :], n)
    lay(out.latency, row, w, at.LATENCY, n, far)
    lay(out.decision, row, w, at.SENT, n, far)
    lay(out.arrival, row, w, at.ARRIVED, n, far)
    lay(out.order, row, s, at.ORDER, n, far)
    lay(out.fill, row, s, at.FILL, n, far)
    lay(out.price, row, s, at.PRICE, n, far)
    at.put(out.status, row, 1, s[at.STATUS :], n)
    at.put(out.reason, row, 1, s[at.REASON :], n)
    lay(out.position, row, s, at.HELD, n, far)
    lay(out.mark, row, s, at.SHOWN, n, far)
    lay(out.price_pnl, row, s, at.PRICE_PNL, n, far)
    lay(out.spread, row, s, at.COST_SPREAD, n, far)
    lay(out.impact, row, s, at.COST_IMPACT, n, far)
    lay(out.latency_drift, row, s, at.COST_DRIFT, n, far)
    lay(out.fees, row, s, at.COST_FEES, n, far)
    lay(out.funding, row, s, at.COST_FUNDING, n, far)
    lay(out.borrow, row, s, at.COST_BORROW, n, far)
    lay(out.liquidation, row, s, at.LIQUIDATION, n, far)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def lay_slots(scratch: Scratch, row: int, n: int, num_slots: int, out: Step) -> None:
    """What a step did to accounts of several slots into the flat columns of a ledger, from element `row` on."""
    for a in range(num_slots):
        s, w = scratch.tile[a * at.NUM_SLOT : (a + 1) * at.NUM_SLOT], scratch.whole[a * at.NUM_WHOLE : (a + 1) * at.NUM_WHOLE]
        first = row + a
        at.put(out.request, first, num_slots, s[at.REQUEST :], n)
        at.put(out.target, first, num_slots, s[at.TARGET :], n)
        at.put(out.guard, first, num_slots, s[at.GUARD :], n)
        at.put(out.latency, first, num_slots, w[at.LATENCY :], n)
        at.put(out.decision, first, num_slots, w[at.SENT :], n)
        at.put(out.arrival, first, num_slots, w[at.ARRIVED :], n)
        at.put(out.order, first, num_slots, s[at.ORDER :], n)
        at.put(out.fill, first, num_slots, s[at.FILL :], n)
        at.put(out.price, first, num_slots, s[at.PRICE :], n)
        at.put(out.status, first, num_slots, s[at.STATUS :], n)
        at.put(out.reason, first, num_slots, s[at.REASON :], n)
        at.put(out.position, first, num_slots, s[at.HELD :], n)
        at.put(out.mark, first, num_slots, s[at.SHOWN :], n)
        at.put(out.price_pnl, first, num_slots, s[at.PRICE_PNL :], n)
        at.put(out.spread, first, num_slots, s[at.COST_SPREAD :], n)
        at.put(out.impact, first, num_slots, s[at.COST_IMPACT :], n)
        at.put(out.latency_drift, first, num_slots, s[at.COST_DRIFT :], n)
        at.put(out.fees, first, num_slots, s[at.COST_FEES :], n)
        at.put(out.funding, first, num_slots, s[at.COST_FUNDING :], n)
        at.put(out.borrow, first, num_slots, s[at.COST_BORROW :], n)
        at.put(out.liquidation, first, num_slots, s[at.LIQUIDATION :], n)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def num_written(out: Step) -> int:
    """Numbers that a ledger takes, about."""
    few = out.fill.size + out.price.size + out.fees.size + out.position.size
    return few + 14 * out.status.size
