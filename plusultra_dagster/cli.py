"""`plusultra`: the console script. Every command imports what it needs itself, so that --help is quick."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="From a dump to a report.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
dump_app = typer.Typer(help="Make and check dumps.", no_args_is_help=True)
app.add_typer(dump_app, name="dump")
annotations_app = typer.Typer(help="What analysts say of trades: add one judgement, load a file of them.", no_args_is_help=True)
app.add_typer(annotations_app, name="annotations")

Profile = Annotated[
    str | None, typer.Option(help="Folder under configs/: smoke, base, gpu24, h200. Default: PLUSULTRA_PROFILE, else base.")
]
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]
Port = Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)]


@contextmanager
def _said() -> Iterator[None]:
    """Errors of the project as one line, exit code 1; Ctrl-C ends everything, exit code 130."""
    from plusultra_core.errors import PlusUltraError

    try:
        yield
    except PlusUltraError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as interrupt:
        typer.echo("interrupted: the next run goes on from here", err=True)
        raise typer.Exit(130) from interrupt


@app.command()
def run(
    dump: Annotated[Path, typer.Argument(help="SQLite dump.", exists=True, dir_okay=False)],
    asset_class: Annotated[
        list[str] | None, typer.Option(help="Class to learn on; may be given several times. Default: all in the dump.")
    ] = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Land a dump, materialise everything for it through Dagster, print the scorecards."""
    with _said():
        code = _run(dump, asset_class or [], profile, as_json)
    raise typer.Exit(code)


def _run(dump: Path, classes: list[str], profile: str | None, as_json: bool) -> int:
    from plusultra_dagster.commands.setup import prepare, quiet

    quiet()
    at = prepare(profile)
    from plusultra_dagster.commands.answer import decision_line, report_of, scorecard_lines, scorecard_of
    from plusultra_dagster.commands.run import as_dict, run_dump
    from plusultra_dagster.partitions import Partition

    report = run_dump(at, dump, classes)
    for name in report.classes:
        cell = Partition(report.snapshot, name)
        card, page, decided = scorecard_of(at, cell), report_of(at, cell), decision_line(at, cell)
        for line in scorecard_lines(card) if card else [f"{name}: no scorecard"]:
            typer.echo(line)
        if decided:
            typer.echo(f"  {decided}")
        if page:
            typer.echo(f"  report: {page}")
    if report.error:
        typer.echo(f"error: {report.error}", err=True)
    if as_json:
        typer.echo(json.dumps(as_dict(report, at), sort_keys=True, allow_nan=False))
    return int(bool(report.error) or any(outcome.status != "success" for outcome in report.classes.values()))


@app.command()
def demo(profile: Profile = None) -> None:
    """Make a dump from prices that ship inside installed packages and run the whole graph for equities."""
    with _said():
        from plusultra_dagster.commands.setup import prepare

        at = prepare(profile)
        path = at.data / "demo" / "demo.sqlite"
        if not path.exists():
            from plusultra_core.data.samples.demo import make_demo

            path.parent.mkdir(parents=True, exist_ok=True)
            make_demo(path)
        code = _run(path, ["equity"], profile, False)
    if code == 0:
        typer.echo("\nNext: open the report above in a browser;")
        typer.echo("`make ui` shows the graph at http://127.0.0.1:3000, `make mlflow` the training runs at http://127.0.0.1:5000.")
    raise typer.Exit(code)


@app.command()
def ui(port: Port = 3000, profile: Profile = None) -> None:
    """Dagster's UI and daemon on the same instance, until Ctrl-C."""
    with _said():
        from plusultra_dagster.commands.serve import serve_ui
        from plusultra_dagster.commands.setup import create_tracking, prepare, quiet

        quiet()
        at = prepare(profile)
        create_tracking(at)
        code = serve_ui(at, port)
    raise typer.Exit(code)


@app.command()
def mlflow(port: Port = 5000) -> None:
    """MLflow's UI on the tracking database, until Ctrl-C."""
    with _said():
        from plusultra_dagster.commands.serve import serve_mlflow
        from plusultra_dagster.commands.setup import create_tracking, prepare, quiet

        quiet()
        at = prepare()
        create_tracking(at)
        code = serve_mlflow(at, port)
    raise typer.Exit(code)


@dump_app.command("make")
def dump_make(
    path: Annotated[Path, typer.Argument(help="Where to write it.")],
    is_demo: Annotated[bool, typer.Option("--demo", help="Real prices from installed packages.")] = False,
    is_synthetic: Annotated[bool, typer.Option("--synthetic", help="Seeded worlds of several classes.")] = False,
    seed: Annotated[int, typer.Option(help="Of the synthetic world.")] = 7,
    planted_ic: Annotated[float | None, typer.Option(help="IC of the planted signal; its optimum is written into the metadata.")] = None,
    num_bars: Annotated[int | None, typer.Option(help="Daily sessions.")] = None,
    num_symbols: Annotated[int | None, typer.Option(help="Symbols of each class that has any.")] = None,
) -> None:
    """Write a dump."""
    if is_demo == is_synthetic:
        raise typer.BadParameter("choose one of --demo and --synthetic")
    if path.exists():
        raise typer.BadParameter(f"{path}: exists, and is not written over; name another file or remove it")
    if is_demo and (seed, planted_ic, num_bars, num_symbols) != (7, None, None, None):
        raise typer.BadParameter("--seed, --planted-ic, --num-bars, --num-symbols: only with --synthetic")
    with _said():
        if is_demo:
            from plusultra_core.data.samples.demo import make_demo

            written = dict(make_demo(path))
        else:
            from plusultra_dagster.commands.dumps import make_synthetic_dump

            written = make_synthetic_dump(path, seed, planted_ic, num_bars, num_symbols)
    typer.echo(f"{path}: {json.dumps(written, sort_keys=True)}")


@dump_app.command("check")
def dump_check(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="SQLite dump.")], profile: Profile = None, as_json: AsJson = False
) -> None:
    """Pass a dump through the gate: exit 0 when it is accepted, 1 when it is refused."""
    with _said():
        from plusultra_dagster.commands.dumps import check, finding_lines

        report = check(path, profile)
        for line in finding_lines(report):
            typer.echo(line)
        if as_json:
            typer.echo(json.dumps(report, sort_keys=True, allow_nan=False))
    raise typer.Exit(0 if report["accepted"] else 1)


@annotations_app.command("add")
def annotations_add(
    trade: Annotated[str, typer.Option(help="Trade of the dump, or <strategy>:<order id> of a trace.")],
    at: Annotated[str, typer.Option(help="Time of the trade, UTC: 2017-06-30T20:00:00Z.")],
    decision: Annotated[str, typer.Option(help="approve, reject, flag, hold or escalate; reject and escalate are vetoes.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    by: Annotated[str, typer.Option(help="Who says it.")],
    symbol: Annotated[str | None, typer.Option(help="Of the trade.")] = None,
    confidence: Annotated[float | None, typer.Option(help="In [0, 1].")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    since: Annotated[str | None, typer.Option(help="Start of the window that it covers; with --until.")] = None,
    until: Annotated[str | None, typer.Option(help="End of that window.")] = None,
    profile: Profile = None,
) -> None:
    """Add one judgement; it is known from now on."""
    raw: dict[str, object] = {
        "trade_id": trade,
        "trade_timestamp": at,
        "decision": decision,
        "rationale": reason,
        "author": by,
        "symbol": symbol,
    }
    raw |= {"confidence": confidence, "tags": tag or [], "context_window_start": since, "context_window_end": until}
    with _said():
        from plusultra_dagster.commands.annotate import add_one

        typer.echo(add_one(raw, profile))


@annotations_app.command("load")
def annotations_load(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, fields as in the dump's trade_annotations without created_at.")],
    only_check: Annotated[bool, typer.Option("--check", help="Say whether it would be taken; write nothing.")] = False,
    profile: Profile = None,
) -> None:
    """Add all judgements of a file or, where one is refused, none."""
    with _said():
        from plusultra_dagster.commands.annotate import load_file

        typer.echo(load_file(path, profile, only_check))


if __name__ == "__main__":
    sys.exit(app())
