"""What an analyst says, into the analysts' store of this home."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from plusultra_core.clock import iso, now_ns
from plusultra_core.feedback.annotations import Annotation, FeedbackConfig, open_store
from plusultra_core.feedback.intake import add, parse, read_lines
from plusultra_dagster.commands.setup import prepare
from plusultra_dagster.config import Feedback
from plusultra_dagster.places import places


def add_one(raw: dict[str, Any], profile: str | None) -> str:
    """One judgement, as options said it; what became of it in words."""
    cfg = _config(profile)
    return _write([parse(raw, "annotation", now_ns(), cfg)], cfg, False)


def load_file(path: Path, profile: str | None, only_check: bool) -> str:
    """All judgements of a file or none; with `only_check` none in any case."""
    cfg = _config(profile)
    return _write(read_lines(path, now_ns(), cfg), cfg, only_check)


def _config(profile: str | None) -> FeedbackConfig:
    prepare(profile)
    return Feedback().load(FeedbackConfig)


def _write(annotations: Sequence[Annotation], cfg: FeedbackConfig, only_check: bool) -> str:
    """The table itself judges a check too: in a store in memory, which goes away."""
    store = Path(":memory:") if only_check else places().feedback / "annotations.sqlite"
    with closing(open_store(store, cfg)) as connection:
        new, known = add(connection, annotations, cfg)
    if only_check:
        return f"{len(annotations)} {'annotation' if len(annotations) == 1 else 'annotations'} would be taken"
    since = f"; known from {iso(annotations[0].created_ns)}" if new else ""
    return f"{store}: {new} added{since}; {known} known already"
