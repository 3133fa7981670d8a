"""What the gate says of a dump: findings, and the verdict made of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from plusultra_core.errors import ConfigError, ContractError

Level = Literal["error", "warning"]


Row = dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationConfig:
    """How strictly a dump is judged."""

    mode: Literal["strict", "quarantine"]
    """strict refuses the dump; quarantine sets the offending symbols aside and goes on."""
    sample_rows: int
    """Offending rows shown with a finding."""
    future_tolerance_s: int
    """How far past now a timestamp may lie."""

    def __post_init__(self) -> None:
        if self.sample_rows < 1:
            raise ConfigError(f"sample_rows: expected >= 1, found {self.sample_rows}")
        if self.future_tolerance_s < 0:
            raise ConfigError(f"future_tolerance_s: expected >= 0, found {self.future_tolerance_s}")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about a dump: an error refuses it, a warning goes into checks and report."""

    level: Level
    code: str
    table: str
    column: str | None
    message: str
    rows: tuple[Row, ...] = ()
    symbols: tuple[str, ...] | None = None
    """Every symbol concerned, where the whole finding can be laid at the door of symbols."""

    def to_dict(self) -> dict[str, object]:
        """JSON types."""
        fields = {"level": self.level, "code": self.code, "table": self.table, "column": self.column, "message": self.message}
        return {**fields, "rows": [dict(row) for row in self.rows], "symbols": list(self.symbols or ())}


@dataclass(frozen=True, slots=True)
class DumpReport:
    """The verdict on a dump; the same for the command line, the snapshot and the asset checks."""

    accepted: bool
    findings: tuple[Finding, ...]
    counts: dict[str, int] = field(default_factory=dict)
    """Rows of each table."""
    ranges: dict[str, dict[str, str]] = field(default_factory=dict)
    """First and last timestamp of each table that has one."""
    classes: dict[str, int] = field(default_factory=dict)
    """Symbols of each asset class."""
    quarantined: tuple[str, ...] = ()
    """Symbols set aside; none in strict mode."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What refuses the dump."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What is accepted and said."""
        return tuple(finding for finding in self.findings if finding.level == "warning")

    def to_dict(self) -> dict[str, object]:
        """JSON types."""
        return {
            "accepted": self.accepted,
            "findings": [finding.to_dict() for finding in self.findings],
            "counts": dict(self.counts),
            "ranges": {table: dict(span) for table, span in self.ranges.items()},
            "classes": dict(self.classes),
            "quarantined": list(self.quarantined),
        }


def refuse(report: DumpReport, name: str) -> None:
    """Raise the first findings of a refused dump.

    Raises  ContractError when the dump is not accepted.
    """
    if not report.accepted:
        errors: Sequence[Finding] = report.errors
        shown = " | ".join(finding.message for finding in errors[:3])
        more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
        raise ContractError(f"{name}: refused: {shown}{more}")


def plain(value: object) -> object:
    """A cell as JSON: bytes and infinities as text, long text cut."""
    if isinstance(value, bytes):
        return f"blob of {len(value)} bytes"
    if isinstance(value, float) and not abs(value) < float("inf"):
        return repr(value)
    return value[:200] if isinstance(value, str) else value


def describe(where: str, count: int, rows: Sequence[Row], expected: str, remedy: str) -> str:
    """The house form: where, what, expected, first rows, what to do."""
    shown = "; ".join(", ".join(f"{name}={value!r}" for name, value in row.items()) for row in rows[:3])
    return f"{where}: {count} {'row' if count == 1 else 'rows'}, first ({shown}); expected {expected}; {remedy}"
