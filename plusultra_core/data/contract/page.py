"""docs/sqlite_schema.md: the tables of a dump, what they become, and what to do about each refusal.

`python -m plusultra_core.data.contract.page` writes it.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from plusultra_core import config
from plusultra_core.data.contract.dump_tables import DUMP, DumpTable
from plusultra_core.data.contract.frames import FRAMES
from plusultra_core.data.contract.validation import schema
from plusultra_core.data.gate.findings import CODES
from plusultra_core.data.gate.schema import SHAPES, UNREAD, TableShape
from plusultra_core.data.tables import TABLES, DataConfig

_CHECKOUT = Path(__file__).resolve().parents[3]
_HEAD = """# The dump

Written by `python -m plusultra_core.data.contract.page` from the code that reads dumps; do not edit.

A dump is one SQLite file. `assets` and `series` must be there, everything else may be. `plusultra dump check FILE` says what the
gate thinks of one; `plusultra dump make --synthetic FILE` writes a sound one.

- **Times** are UTC: text `YYYY-MM-DD HH:MM:SS[.fff]` (also with `T`, `Z` or an offset, which is converted with a warning) or
  integer epoch s, ms, us or ns; one notation a column. A bar is stamped with its close.
- **Numbers** are REAL or INTEGER, with NULL for what is not known. Text that is a number is read with a warning, anything else
  in its place is refused.
- **Symbols** are data: any printable text up to 128 characters. None ever becomes a path or part of a query.
- **Side tables** are whatever `configs/<profile>/data.yaml` lists under `side_tables`: the ones below are those of the base
  profile, and another one needs no code.
"""


def render() -> str:
    """The page."""
    cfg = config.load(DataConfig, _CHECKOUT / "configs" / "base" / "data.yaml")
    configured = {shape.table: shape for shape in cfg.shapes()}
    shapes = {**SHAPES, **configured}
    lines = [_HEAD, "## Tables of the dump", ""]
    for name, table in DUMP.items():
        lines += _table(name, table, shapes.get(name), name in configured)
    lines += ["## What they become", "", _frames_text(), ""]
    for name in TABLES:
        lines += _frame(name)
    lines += ["## Troubleshooting", ""]
    for level, says in (("error", "Refusals"), ("warning", "Warnings")):
        rows = [(f"`{code}`", what.meaning, what.remedy) for code, what in sorted(CODES.items()) if what.level == level]
        lines += [f"### {says}", "", *_grid(("code", "what it means", "what to do"), rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def create_table(name: str) -> str:
    """The statement that makes a table of the contract."""
    columns = ",\n".join(f'    "{column}" {kind}' for column, (kind, _, _) in DUMP[name].columns.items())
    return f'CREATE TABLE "{name}" (\n{columns}\n);'


def _table(name: str, table: DumpTable, shape: TableShape | None, configured: bool) -> list[str]:
    keys = ", ".join(f"`{key}`" for key in shape.keys if key != shape.known_at) if shape and shape.keys else ""
    lines = [f"### `{name}`", "", table.what + (f" One row for each {keys}." if keys else ""), ""]
    rows = [
        (f"`{column}`", kind, _presence(shape, column), _range(shape, column), unit, sense)
        for column, (kind, unit, sense) in table.columns.items()
    ]
    lines += [*_grid(("column", "type", "must be there", "values", "unit", "what it is"), rows), ""]
    if configured and shape is not None and shape.any_number:
        lines += ["Every other column that is declared as a number is a value column.", ""]
    if name in UNREAD:
        lines += ["It is not read.", ""]
    lines += [f"{note}\n" for note in table.notes]
    return [*lines, "```sql", create_table(name), table.query + ";", "```", ""]


def _presence(shape: TableShape | None, column: str) -> str:
    if shape is None:
        return "no"
    if column in shape.required:
        return "yes, never NULL" if column in shape.keys or column in (shape.symbol, "close", "symbol") else "yes"
    return "no"


def _range(shape: TableShape | None, column: str) -> str:
    if shape is None:
        return ""
    kinds = ((shape.positive, "> 0"), (shape.nonnegative, ">= 0"), (shape.finite, "finite"), (shape.integers, "whole"))
    return next((text for columns, text in kinds if column in columns), "")


def _frames_text() -> str:
    others = ", ".join(f"`{name}`" for name in FRAMES if name not in TABLES)
    return (
        "The gate reads each table once and keeps it as typed columns in the snapshot; the assets of that name give the rows of one\n"
        "class, as below, each held to the pandera schema that these tables are written from. Every other frame of the graph\n"
        f"({others})\nhas such a schema too; the UI shows it with each table."
    )


def _frame(name: str) -> list[str]:
    made = schema(name, tuple(FRAMES[name].columns))
    rows = []
    for column, rule in made.columns.items():
        limits = "; ".join(str(check.error or check.name) for check in rule.checks)
        rows.append((f"`{column}`", str(rule.dtype), "yes" if rule.nullable else "no", limits, rule.metadata["unit"], rule.description))
    order = ", ".join(f"`{key}`" for key in FRAMES[name].order)
    return [f"### Frame `{name}`", "", f"Sorted by {order}, each once.", "", *_grid(_FRAME_COLUMNS, rows), ""]


_FRAME_COLUMNS = ("column", "type", "null", "values", "unit", "what it is")


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *(line(row) for row in rows)]


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else _CHECKOUT / "docs" / "sqlite_schema.md"
    target.write_text(render(), encoding="utf-8")
