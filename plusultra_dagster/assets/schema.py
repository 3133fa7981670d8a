"""Columns of a table as the UI shows them: type, what may stand there (from the contract), what it means."""

import re
from collections.abc import Mapping

import dagster as dg
import polars as pl


def schema_of(contract: str | None, frame: pl.DataFrame, meanings: Mapping[str, str]) -> dg.TableSchema:
    """Columns of a frame; `meanings` go before what is said here."""
    from plusultra_core.data.contract.frames import FRAMES

    spec = FRAMES.get(contract) if contract else None
    columns = []
    for name, kind in frame.schema.items():
        rule = None
        if spec is not None:
            rule = spec.columns.get(name) or next((col for text, col in spec.patterns.items() if re.fullmatch(text, name)), None)
        constraints = dg.TableColumnConstraints(nullable=rule is None or rule.nullable, other=_limits(rule))
        columns.append(dg.TableColumn(name, str(kind), meanings.get(name) or _meaning(name), constraints))
    return dg.TableSchema(columns)


def _limits(rule: object) -> list[str]:
    """What values may be, of one column of a contract."""
    signs = {"above": ">", "least": ">=", "most": "<="}
    found = [f"{sign} {getattr(rule, name):g}" for name, sign in signs.items() if getattr(rule, name, None) is not None]
    options = getattr(rule, "options", ())
    return [*found, *([f"one of {', '.join(map(str, options))}"] if options else [])]


def _meaning(name: str) -> str | None:
    from plusultra_core.data.contract.meanings import meaning_of

    found = meaning_of(name)
    if found is None:
        return None
    unit, sense = found
    return f"{sense} Unit: {unit}." if unit else sense
