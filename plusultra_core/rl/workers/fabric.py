"""A team on several devices or machines through Lightning Fabric: each member learns from its own episodes, gradients are summed.

The same team as that of `learning.processes`, for learners whose device is a GPU, or whose members live on more than one machine.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from plusultra_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class FabricConfig:
    """Where the members live."""

    accelerator: Literal["cpu", "cuda"]
    devices: int
    """Members on each machine: GPUs, or processes where the accelerator is the CPU."""
    num_nodes: int
    """Machines. More than one: started on each by torchrun or a scheduler that Fabric knows."""

    def __post_init__(self) -> None:
        if self.devices < 1 or self.num_nodes < 1:
            raise ConfigError(f"fabric: expected devices, num_nodes >= 1, found {self.devices}, {self.num_nodes}")


class FabricTeam:
    """One member. Sums go through gloo on CPUs and NCCL on GPUs."""

    def __init__(self, fabric: Any) -> None:
        self._fabric = fabric
        self.rank: int = fabric.global_rank
        self.size: int = fabric.world_size

    def total(self, *arrays: Any) -> None:
        """Replace every array by its sum over the team, in one message."""
        if self.size == 1:
            return
        flat = torch.from_numpy(np.concatenate([np.asarray(array, dtype=np.float64).ravel() for array in arrays]))
        total = self._fabric.all_reduce(flat.to(self._fabric.device), reduce_op="sum").cpu().numpy()
        first = 0
        for array in arrays:
            array[...] = total[first : first + array.size].reshape(array.shape)
            first += array.size


def run_fabric(cfg: FabricConfig, work: Callable[..., Any], *arguments: Any) -> Any:
    """Run `work(team, *arguments)` in every member; returns what the first one's gave.

    `work` is a function of a module. Under torchrun, or with several machines, processes exist already; else they are started here.
    """
    from lightning.fabric import Fabric

    started = "TORCHELASTIC_RUN_ID" in os.environ or cfg.num_nodes > 1
    strategy = "auto" if cfg.devices * cfg.num_nodes == 1 else "ddp" if started else "ddp_spawn"
    fabric = Fabric(accelerator=cfg.accelerator, devices=cfg.devices, num_nodes=cfg.num_nodes, strategy=strategy)
    return fabric.launch(partial(_member, work, arguments))


def _member(work: Callable[..., Any], arguments: tuple[Any, ...], fabric: Any) -> Any:
    return work(FabricTeam(fabric), *arguments)
