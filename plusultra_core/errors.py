"""Every error that PlusUltra raises on purpose.

PlusUltraError
├── ConfigError          a config file or value is not what its dataclass says
├── ContractError        a dump, table or frame breaks its contract
│   └── LookaheadError   a value knows its own future
├── ArtifactError        a stored artifact is missing, damaged or of another format
├── GuardrailBreach      a position or order outside what may be held
└── JobError             a child process could not do its task

One sentence each: where, what, expected, found, what to do.
"""


class PlusUltraError(Exception):
    """Root of the tree; the service and the command line translate it, nobody else does."""


class ConfigError(PlusUltraError):
    """A config file or value is not what its dataclass says."""


class ContractError(PlusUltraError):
    """A dump, table or frame breaks its contract."""


class LookaheadError(ContractError):
    """A value knows its own future."""


class ArtifactError(PlusUltraError):
    """A stored artifact is missing, damaged or of another format."""


class GuardrailBreach(PlusUltraError):
    """A position or order outside what may be held."""


class JobError(PlusUltraError):
    """A child process could not do its task."""
