"""One step of single-asset episodes as one call: what is asked, the market's bar, what is paid, what is seen.

A call of compiled code costs some microseconds, more with every array that is handed over: as much as the step of hundreds of
accounts. So Python hands over addresses, made once, and the four kernels are called by theirs. They are compiled where they
stand, and nothing of them is copied into this file: its own compiled form never grows old.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from plusultra_core.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from plusultra_core.rl.reward import RewardConfig, pay
from plusultra_core.simulation import engine
from plusultra_core.simulation import tiles as at
from plusultra_core.simulation.kernel.lines import ask
from plusultra_core.simulation.kernel.wires import wire
from plusultra_core.simulation.observation import observe_single
from plusultra_core.simulation.sizing import request_single

STANDS_LAST = -1
"""Nothing was done: an account that is alive stands on the last bar."""

_FLOAT, _WHOLE = types.float64, types.int64
_FLOATS, _WHOLES, _BOOLS = types.float64[::1], types.int64[::1], types.boolean[::1]
_FLOATS_2, _BOOLS_2, _SINGLES_2, _SINGLES_3 = types.float64[:, ::1], types.boolean[:, ::1], types.float32[:, ::1], types.float32[:, :, ::1]
_KINDS = (
    (_FLOATS, _BOOLS_2, _WHOLES, _WHOLES, *(_FLOATS,) * 5, _FLOAT, _FLOATS, _FLOATS_2),
    (types.UniTuple(_WHOLES, 5), _FLOATS, _FLOATS, *(_WHOLE,) * 4, _FLOATS),
    (_FLOATS_2, _FLOATS, _FLOATS, _BOOLS, _WHOLES, _WHOLES, _WHOLE, _FLOATS_2, *(_FLOAT,) * 5, _FLOATS, _FLOATS, _BOOLS, _BOOLS),
    (*(_FLOATS,) * 8, *(_WHOLES,) * 3, _WHOLE, _SINGLES_3, _SINGLES_2),
)
"""How request_single, step_accounts, pay and observe_single are called: one that does not take this is refused before it is called."""
_LINE = 16
"""Columns of a market row that one hint brings."""


class Slots(NamedTuple):
    """What an episode reads and writes. Shapes  (E,), moments and before (E, 2), obs (E, P), present (T, N), table (T, N, F)."""

    equity: Float64Array
    peak: Float64Array
    capital: Float64Array
    done: BoolArray
    t: Int64Array
    asset: Int64Array
    position: Float64Array
    mark: Float64Array
    working: Float64Array
    weight: Float64Array
    fill: Float64Array
    pnl: Float64Array
    pnl_peak: Float64Array
    start: Int64Array
    request: Float64Array
    reward: Float64Array
    ret: Float64Array
    terminated: BoolArray
    ended: BoolArray
    heard: BoolArray
    moments: Float64Array
    before: Float64Array
    obs: Float32Array
    present: BoolArray
    table: Float32Array


_NUM_SLOTS, _NUM_CALLED, _NUM_KERNEL = len(Slots._fields), len(_KINDS), 8
_SIZES = 2 * (_NUM_SLOTS + _NUM_KERNEL) + _NUM_CALLED


class Prepared(NamedTuple):
    """What `step_episodes` and `look` are called with, and what their addresses belong to, which must live as long."""

    wires: Int64Array
    """Address and size of every array, the kernels, the sizes."""
    numbers: Float64Array
    kept: tuple[Any, ...]


def prepare(env: engine.Environment, slots: Slots, episode_bars: int, band: float, reward: RewardConfig) -> Prepared:
    """Everything by its address. `env` has one slot an account and one thread."""
    assert all(array.flags.c_contiguous for array in slots)
    ((_, _, scratch),) = env._shares
    kernel = (env._wires[0], env._wires[1], scratch, env._nothing, env._wires[2], env._scalars, env._no_books, env._world.bars)
    assert len(kernel) == _NUM_KERNEL
    num_bars, num_assets, num_market = slots.table.shape
    sizes = (slots.t.size, num_bars, num_assets, num_market, env.market.ts_ns.size - 1, env._form, episode_bars, at.NUM_BAR)
    arrays = np.concatenate((wire(slots), np.array([(x.__array_interface__["data"][0], x.size) for x in kernel], dtype=np.int64).ravel()))
    called = (request_single, vars(engine)["step_accounts"], pay, observe_single)
    addresses = [_address(*pair) for pair in zip(called, _KINDS, strict=True)]
    wires = np.concatenate((arrays, addresses, sizes)).astype(np.int64)
    charged = (reward.scale, reward.variance_coef, reward.drawdown_coef, reward.sharpe_coef, reward.sharpe_decay)
    return Prepared(wires, np.array((band, *charged), dtype=np.float64), (env, slots, kernel))


def _address(kernel: Any, kinds: tuple[Any, ...]) -> int:
    """Where a kernel of this signature stands, compiled or out of the cache."""
    kernel.compile(kinds)
    compiled = kernel.overloads[kinds]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


@intrinsic  # type: ignore[untyped-decorator]
def _call(typing: Any, address: Any, arguments: Any) -> Any:
    """Call the kernel at an address; it takes the tuple's parts and gives nothing."""
    kinds = tuple(types.unliteral(kind) for kind in arguments)

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        convention = context.call_conv
        pointer = builder.inttoptr(values[0], convention.get_function_type(types.none, kinds).as_pointer())
        parts = cgutils.unpack_tuple(builder, values[1], len(kinds))
        status, _ = convention.call_function(builder, pointer, types.none, kinds, parts)
        with cgutils.if_unlikely(builder, status.is_error):
            convention.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.void(address, arguments), build


def _array_of(kind: Any, width: int, num_axes: int) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def array(typing: Any, address: Any, shape: Any) -> Any:
        """The array of a shape at an address, in one piece; owned by nobody here."""
        made = types.Array(kind, num_axes, "C")

        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            sizes, strides = cgutils.unpack_tuple(builder, values[1], num_axes), [context.get_constant(types.intp, width)]
            for size in reversed(sizes[1:]):
                strides.insert(0, builder.mul(strides[0], size))
            result = context.make_array(made)(context, builder)
            places = {"shape": cgutils.pack_array(builder, sizes), "strides": cgutils.pack_array(builder, strides)}
            data = builder.inttoptr(values[0], result.data.type)
            populate_array(result, data=data, **places, itemsize=strides[-1], meminfo=None)
            return result._getvalue()

        return made(address, shape), build

    return array


_floats, _wholes, _bools = _array_of(types.float64, 8, 1), _array_of(types.int64, 8, 1), _array_of(types.boolean, 1, 1)
_singles, _floats_2 = _array_of(types.float32, 4, 1), _array_of(types.float64, 8, 2)
_bools_2, _singles_2, _singles_3 = _array_of(types.boolean, 1, 2), _array_of(types.float32, 4, 2), _array_of(types.float32, 4, 3)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def _ask(w: Int64Array, s: Slots) -> None:
    """Bring what this step will read into the cache: the bars that it meets and the market rows behind them lie anywhere."""
    bars, rows = _floats(w[2 * _NUM_SLOTS + 14], (w[2 * _NUM_SLOTS + 15],)), _singles(w[48], (w[49],))
    num_assets, width = s.table.shape[1], s.table.shape[2]
    for e in range(s.t.size):
        ask(bars, (s.asset[e] * s.table.shape[0] + s.t[e] + 1) * w[_SIZES + 7])
        place = ((s.t[e] + 1) * num_assets + s.asset[e]) * width
        for column in range(place, place + width, _LINE):
            ask(rows, column)


@njit(error_model="numpy", _nrt=False, forceinline=True)
def _slots(w: Int64Array) -> Slots:
    """The arrays behind the wires."""
    num, num_bars, num_assets, num_market = w[_SIZES], w[_SIZES + 1], w[_SIZES + 2], w[_SIZES + 3]
    one = (num,)
    return Slots(
        _floats(w[0], one), _floats(w[2], one), _floats(w[4], one), _bools(w[6], one), _wholes(w[8], one), _wholes(w[10], one),
        _floats(w[12], one), _floats(w[14], one), _floats(w[16], one), _floats(w[18], one), _floats(w[20], one), _floats(w[22], one),
        _floats(w[24], one), _wholes(w[26], one), _floats(w[28], one), _floats(w[30], one), _floats(w[32], one), _bools(w[34], one),
        _bools(w[36], one), _bools(w[38], one), _floats_2(w[40], (num, 2)), _floats_2(w[42], (num, 2)),
        _singles_2(w[44], (num, w[45] // num)), _bools_2(w[46], (num_bars, num_assets)),
        _singles_3(w[48], (num_bars, num_assets, num_market)),
    )  # fmt: skip


@njit(cache=True, error_model="numpy", _nrt=False)
def look(w: Int64Array) -> None:
    """What every episode sees, and whether its next action is heard."""
    s, called = _slots(w), _SIZES - _NUM_CALLED
    seen = (s.equity, s.capital, s.position, s.working, s.fill, s.mark, s.pnl, s.pnl_peak, s.t, s.asset, s.start)
    _call(w[called + 3], (*seen, w[_SIZES + 6], s.table, s.obs))
    for e in range(s.t.size):
        s.heard[e] = s.present[s.t[e], s.asset[e]]


@njit(cache=True, error_model="numpy", _nrt=False)
def step_episodes(action_E: Float64Array, w: Int64Array, x: Float64Array) -> int:
    """One bar of every episode, observed before any reset; how many ended, or STANDS_LAST."""
    s, called = _slots(w), _SIZES - _NUM_CALLED
    num, last, form, episode_bars = w[_SIZES], w[_SIZES + 4], w[_SIZES + 5], w[_SIZES + 6]
    for e in range(num):
        if s.t[e] >= last and not s.done[e]:
            return STANDS_LAST
    _ask(w, s)
    _call(w[called], (action_E, s.present, s.t, s.asset, s.weight, s.working, s.mark, s.equity, s.peak, x[0], s.request, s.before))
    k = 2 * _NUM_SLOTS
    wires = (
        _wholes(w[k], (w[k + 1],)), _wholes(w[k + 2], (w[k + 3],)), _wholes(w[k + 4], (w[k + 5],)), _wholes(w[k + 6], (w[k + 7],)),
        _wholes(w[k + 8], (w[k + 9],)),
    )  # fmt: skip
    scalars, books = _floats(w[k + 10], (w[k + 11],)), _floats(w[k + 12], (w[k + 13],))
    _call(w[called + 1], (wires, scalars, s.request, 1, 0, num, form, books))
    paid = (s.before, s.equity, s.peak, s.done, s.t, s.start, episode_bars, s.moments)
    _call(w[called + 2], (*paid, x[1], x[2], x[3], x[4], x[5], s.reward, s.ret, s.terminated, s.ended))
    seen = (s.equity, s.capital, s.position, s.working, s.fill, s.mark, s.pnl, s.pnl_peak, s.t, s.asset, s.start)
    _call(w[called + 3], (*seen, episode_bars, s.table, s.obs))
    num_ended = 0
    for e in range(num):
        s.heard[e] = s.present[s.t[e], s.asset[e]]
        num_ended += s.ended[e]
    return num_ended
