"""What a policy is made of: what it reads of the market, what it remembers, how it says what it does."""

from dataclasses import dataclass
from typing import Literal

from plusultra_core.errors import ConfigError
from plusultra_core.models.policy import PolicyConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryConfig:
    """What is kept of the account's earlier own states within an episode."""

    kind: Literal["none", "window", "gru"]
    """window: the last `bars` own states side by side; gru: a gated recurrent unit over all of them."""
    bars: int
    """Own states that a window holds, the newest included."""
    width: int
    """Units of the recurrent state."""

    def __post_init__(self) -> None:
        if self.bars < 1 or self.width < 1:
            raise ConfigError(f"memory: expected bars, width >= 1, found {self.bars}, {self.width}")


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig:
    """The backbone inside a policy of kind `backbone`: where its weights begin, and how far they may go."""

    source: Literal["supervised", "pretrained", "none"]
    """supervised: the forecaster with its heads; pretrained: the backbone of masked reconstruction; none: fresh weights."""
    tuning: Literal["frozen", "discriminative", "full"]
    """discriminative: the learning rate falls by `depth_decay` with every layer away from the actor."""
    depth_decay: float

    def __post_init__(self) -> None:
        if not 0 < self.depth_decay <= 1:
            raise ConfigError(f"backbone.depth_decay: expected in (0, 1], found {self.depth_decay}")
        if self.source == "none" and self.tuning == "frozen":
            raise ConfigError("backbone: expected a source where the tuning is frozen; fresh weights know nothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeConfig:
    """A kind of policy. `mlp` with a Gaussian, no memory and `train_span` has a compiled learner; the others learn by autograd."""

    kind: Literal["mlp", "backbone"]
    """mlp: reads rows of the frozen supervised forecaster; backbone: reads windows, through its own backbone."""
    head: Literal["gaussian", "categorical", "dirichlet"]
    """gaussian, categorical: one slot at a time; dirichlet: weights of a whole account and its cash, long only."""
    size: PolicyConfig
    """Of actor and critic."""
    grid: tuple[float, ...]
    """Parts of the limit among which a categorical chooses."""
    memory: MemoryConfig
    norm_obs: Literal["train_span", "running"]
    """train_span: market rows by their moments over the train span; running: all columns by moments of what was seen so far."""
    backbone: BackboneConfig

    def __post_init__(self) -> None:
        if list(self.grid) != sorted(set(self.grid)) or 0.0 not in self.grid or any(abs(part) > 1 for part in self.grid):
            raise ConfigError(f"policy.grid: expected rising parts in [-1, 1] with 0 among them, found {list(self.grid)}")

    @property
    def is_plain(self) -> bool:
        """Whether it is the policy that the compiled learner knows."""
        return (self.kind, self.head, self.memory.kind, self.norm_obs) == ("mlp", "gaussian", "none", "train_span")

    @property
    def is_book(self) -> bool:
        """Whether it acts on a whole account at once."""
        return self.head == "dirichlet"
