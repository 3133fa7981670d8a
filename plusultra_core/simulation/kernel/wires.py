"""The way into the kernel: addresses in one array instead of forty arrays, each of which takes time to hand over.

Whoever calls keeps the arrays alive; `Environment` does.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.guardrails.limits import Limits
from plusultra_core.simulation import tiles as at
from plusultra_core.simulation.costs import Rules
from plusultra_core.simulation.kernel.calm import Rows
from plusultra_core.simulation.kernel.lines import ask
from plusultra_core.simulation.records import Step
from plusultra_core.simulation.tiles import Block, Scratch, World

NUM_RULES = len(Rules._fields)


def wire(arrays: NamedTuple) -> Int64Array:
    """Address and size of each array, and what is a whole number as it stands. Shapes  (2 fields,)."""
    found = [(x.__array_interface__["data"][0], x.size) if isinstance(x, np.ndarray) else (x, 0) for x in arrays]
    return np.array(found, dtype=np.int64).reshape(-1)


def numbers(rules: Rules, limits: Limits) -> Float64Array:
    """The scalars of both, in the order of their fields."""
    return np.array([*rules, *limits], dtype=np.float64)


def _array_of(kind: Any) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def array(typing: Any, wires: Any, k: Any) -> Any:
        """Array k of `wires`; owned by nobody here."""
        made = types.Array(kind, 1, "C")

        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, value=arguments[0]).data
            place = builder.mul(arguments[1], context.get_constant(types.intp, 2))
            address = builder.load(builder.gep(data, [place]))
            size = builder.load(builder.gep(data, [builder.add(place, context.get_constant(types.intp, 1))]))
            width = context.get_constant(types.intp, kind.bitwidth // 8)
            result = context.make_array(made)(context, builder)
            pointer = builder.inttoptr(address, result.data.type)
            shape, strides = cgutils.pack_array(builder, [size]), cgutils.pack_array(builder, [width])
            populate_array(result, data=pointer, shape=shape, strides=strides, itemsize=width, meminfo=None)
            return result._getvalue()

        return made(wires, types.intp), build

    return array


floats, wholes, small = _array_of(types.float64), _array_of(types.int64), _array_of(types.int8)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def world_of(w: Int64Array) -> World:
    """The market behind its wires."""
    return World(wholes(w, 0), floats(w, 1), floats(w, 2), floats(w, 3), floats(w, 4), floats(w, 5), wholes(w, 6), floats(w, 7), w[16])


@njit(error_model="numpy", _nrt=False, forceinline=True)
def block_of(w: Int64Array) -> Block:
    """The accounts behind their wires."""
    return Block(floats(w, 0), floats(w, 1), wholes(w, 2), wholes(w, 3), wholes(w, 4), small(w, 5), small(w, 6), w[14], w[16])


@njit(error_model="numpy", _nrt=False, forceinline=True)
def scratch_of(w: Int64Array) -> Scratch:
    """The room for a tile behind its wires."""
    return Scratch(floats(w, 0), wholes(w, 1), floats(w, 2), wholes(w, 3), floats(w, 4))


@njit(error_model="numpy", _nrt=False, forceinline=True)
def rows_of(w: Int64Array) -> Rows:
    """The rows of a market behind their wires."""
    return Rows(
        floats(w, 0), floats(w, 1), floats(w, 2), floats(w, 3), floats(w, 4), floats(w, 5), floats(w, 6), floats(w, 7), floats(w, 8),
        floats(w, 9), w[20],
    )  # fmt: skip


@njit(error_model="numpy", _nrt=False, forceinline=True)
def step_of(w: Int64Array) -> Step:
    """The columns of a ledger behind their wires."""
    return Step(
        floats(w, 0), floats(w, 1), small(w, 2), wholes(w, 3), wholes(w, 4), wholes(w, 5), floats(w, 6), floats(w, 7), floats(w, 8),
        small(w, 9), small(w, 10), floats(w, 11), floats(w, 12), floats(w, 13), floats(w, 14), floats(w, 15), floats(w, 16),
        floats(w, 17), floats(w, 18), floats(w, 19), floats(w, 20),
    )  # fmt: skip


@njit(error_model="numpy", _nrt=False, forceinline=True)
def rules_of(x: Float64Array) -> Rules:
    """The first of `numbers`."""
    return Rules(
        int(x[0]), x[1], int(x[2]), x[3], x[4], x[5], x[6], x[7], x[8], x[9], x[10], x[11], x[12], x[13], x[14], x[15], x[16],
        x[17], x[18] != 0.0, x[19] != 0.0,
    )  # fmt: skip


@njit(error_model="numpy", _nrt=False, forceinline=True)
def limits_of(x: Float64Array) -> Limits:
    """The rest of `numbers`."""
    y = x[NUM_RULES:]
    return Limits(y[0], y[1], y[2], y[3], y[4], y[5], y[6])


@njit(error_model="numpy", _nrt=False, forceinline=True)
def ask_bars(world: World, block: Block, low: int, n: int, num_slots: int) -> None:
    """Bring the bars that come for accounts low .. low + n into the cache: they lie anywhere, and no processor guesses them."""
    num_times = world.ts_ns.size
    for i in range(low, low + n):
        for a in range(i * num_slots, (i + 1) * num_slots):
            place = block.asset[a] * num_times + block.t[i] + 1
            ask(world.bars, place * at.NUM_BAR)
            if world.funding.size:
                ask(world.funding, place)
            if world.terms.size:
                ask(world.terms, place * at.NUM_TERMS)
