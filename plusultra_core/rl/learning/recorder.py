"""What a policy does and expects during a rollout, written into rows that the update reads."""

from typing import NamedTuple, Protocol

import numpy as np
import torch

from plusultra_core.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from plusultra_core.rl.learning import kernels
from plusultra_core.rl.learning.networks import CHUNK, Networks
from plusultra_core.rl.learning.tables import Lookup, market_of


class Record(NamedTuple):
    """One side of a rollout: what was seen, drawn and expected. Time-major."""

    obs_TEP: Float32Array
    row_TE: Int64Array | None
    """Rows of the market's table that stand before the observation, where it is looked up."""
    u_TE: Float32Array
    """Action before squashing, or what else its density is written in; a vector of actions has one more axis."""
    logprob_TE: Float32Array
    value_TE: Float32Array
    next_TE: Float64Array
    """Value of the observation that followed."""
    allowed_TEC: BoolArray | None
    state_ES: Float32Array | None
    """Memory of the accounts at the start, where the policy has one."""
    final_CP: Float32Array | None = None
    """What followed, whole, where an episode ended or the rollout did, in the order of time and account."""


class Recorder(Protocol):
    """Where a policy acts."""

    def act(self, t: int, obs_EP: Float32Array, row_E: Int64Array | None, allowed_EC: BoolArray | None) -> Float64Array:
        """Draw the actions of step t. Shapes  (E,), or (E, A) of books."""

    def follow(self, obs_EP: Float32Array, ended_E: BoolArray, is_last: bool) -> None:
        """What followed a step, before any reset."""

    def record(self, ended_TE: BoolArray) -> Record:
        """The rows, once all steps are made."""


class CompiledRecorder:
    """For the compiled networks: one forward pass a step gives action and value."""

    def __init__(
        self, networks: Networks, shape: tuple[int, int], num_columns: int, table_RF: Float32Array | None, rng: np.random.Generator
    ) -> None:
        num_steps, num_accounts = shape
        self._networks = networks
        self._obs_TEP = np.empty((*shape, num_columns), dtype=np.float32)
        self._u_TE: Float32Array = rng.standard_normal(shape, dtype=np.float32)
        self._logprob_TE: Float32Array = np.empty(shape, dtype=np.float32)
        self._out_KTE: Float32Array = np.empty((2, *shape), dtype=np.float32)
        self._final: list[Float32Array] = []
        self._lookup = None if table_RF is None else Lookup(table_RF, num_steps * num_accounts, 2 * networks.width)
        self._row_TE: Int64Array | None = None if table_RF is None else np.empty(shape, dtype=np.int64)

    def act(self, t: int, obs_EP: Float32Array, row_E: Int64Array | None, allowed_EC: BoolArray | None) -> Float64Array:
        """Draw the actions of step t; what is allowed does not matter to a single slot, whose action is then not heard."""
        obs = self._obs_TEP[t]
        obs[...] = obs_EP
        if self._lookup is None or self._row_TE is None or row_E is None:
            out_KE = self._networks.outputs(torch.from_numpy(obs), 2)
        else:
            self._row_TE[t] = row_E
            out_KE = self._networks.looked_up(self._lookup, self._row_TE[t], obs)
        self._out_KTE[:, t] = out_KE
        kernels.draw(out_KE[0], self._networks.logstd, self._u_TE[t], self._logprob_TE[t])
        action_E: Float64Array = np.tanh(self._u_TE[t]).astype(np.float64)
        return action_E

    def follow(self, obs_EP: Float32Array, ended_E: BoolArray, is_last: bool) -> None:
        """What followed a step, whole, with the market row before the own state; read where the episode ended, or the rollout does."""
        self._final.append(obs_EP if is_last else obs_EP[ended_E])

    def record(self, ended_TE: BoolArray) -> Record:
        """The rows, once all steps are made.

        The value that followed is the next row's, but the final one's where the episode ended or the rollout did.
        """
        self._settle()
        value_TE = self._out_KTE[1]
        next_TE: Float64Array = np.empty(value_TE.shape)
        next_TE[:-1] = value_TE[1:]
        final_CP = np.concatenate(self._final)
        next_TE[closed(ended_TE)] = self._networks.outputs(torch.from_numpy(final_CP), 2)[1]
        return Record(self._obs_TEP, self._row_TE, self._u_TE, self._logprob_TE, value_TE, next_TE, None, None, final_CP)

    def _settle(self) -> None:
        """Where products of few rows round otherwise than those of a chunk, take densities and values from chunks, as the update will."""
        obs_BP, u_B = self._obs_TEP.reshape(-1, self._obs_TEP.shape[2]), self._u_TE.reshape(-1)
        out_KB = self._out_KTE.reshape(2, -1)
        market = None if self._lookup is None or self._row_TE is None else market_of(self._lookup.table_RF, self._row_TE.reshape(-1))
        for first in range(0, u_B.size, CHUNK):
            index_M = np.arange(first, min(first + CHUNK, u_B.size))
            found_KM = self._networks.rows(obs_BP, index_M, market)
            if first == 0 and np.array_equal(found_KM, out_KB[:, index_M]):
                return
            out_KB[:, index_M] = found_KM
            kernels.logprobs(found_KM[0], u_B[index_M], self._networks.logstd, self._logprob_TE.reshape(-1)[index_M[0] : index_M[-1] + 1])


def closed(ended_TE: BoolArray) -> BoolArray:
    """After which steps nothing follows in the rows themselves."""
    closed_TE = ended_TE.copy()
    closed_TE[-1] = True
    return closed_TE


def reviewed(networks: Networks, record: Record, ended_TE: BoolArray, table_RF: Float32Array | None) -> Record:
    """The rows with the densities and values of the weights as they are now, in chunks as the update reads them."""
    obs_BP, u_B = record.obs_TEP.reshape(-1, record.obs_TEP.shape[2]), record.u_TE.reshape(-1)
    market = None if record.row_TE is None or table_RF is None else market_of(table_RF, record.row_TE.reshape(-1))
    logprob_B: Float32Array = np.empty(u_B.size, dtype=np.float32)
    value_B: Float32Array = np.empty(u_B.size, dtype=np.float32)
    for first in range(0, u_B.size, CHUNK):
        of = slice(first, min(first + CHUNK, u_B.size))
        mean_M, value_B[of] = networks.rows(obs_BP, np.arange(of.start, of.stop), market)
        kernels.logprobs(mean_M, u_B[of], networks.logstd, logprob_B[of])
    value_TE = value_B.reshape(ended_TE.shape)
    next_TE: Float64Array = np.empty(ended_TE.shape)
    next_TE[:-1] = value_TE[1:]
    next_TE[closed(ended_TE)] = networks.outputs(torch.from_numpy(record.final_CP), 2)[1]
    return record._replace(logprob_TE=logprob_B.reshape(ended_TE.shape), value_TE=value_TE, next_TE=next_TE)
