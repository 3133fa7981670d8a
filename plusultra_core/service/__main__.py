"""`python -m plusultra_core.service publish ...` names what is served, `... serve ...` opens the door, `... rollback ...` takes a champion
down, `... key NAME` makes a key."""

import argparse
import json
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from plusultra_core import config
from plusultra_core.artifacts import Artifact
from plusultra_core.errors import ArtifactError, ConfigError, PlusUltraError
from plusultra_core.evaluation.registry.chain import class_folder, read_key, roll_back
from plusultra_core.service.app import ServiceConfig, create_app
from plusultra_core.service.auth import KeysConfig, make_key
from plusultra_core.service.champions.publish import Follower, publish_champion
from plusultra_core.service.desk import load_settings, open_desk, publish_desk
from plusultra_core.service.journal import open_journal
from plusultra_core.service.state import ServiceState, point

Look = Callable[[ServiceState], bool | None]
"""One look at what is to be served: None when it is as before, else whether it is served now."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, do what it says, translate errors into one line."""
    parser = argparse.ArgumentParser(prog="python -m plusultra_core.service", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="answer on loopback until stopped")
    serve.add_argument("--config", type=Path, required=True, help="configs/<profile>/service.yaml")
    serve.add_argument("--pointer", type=Path, help="JSON file that names the served directory and its sha256")
    serve.add_argument("--keys", type=Path, required=True, help="YAML file with the hashes of the API keys")
    serve.add_argument("--journal", type=Path, required=True, help="SQLite file, made if it is not there")
    publish = commands.add_parser("publish", help="copy a champion, or a bundle and its windows, into a served directory and point to it")
    publish.add_argument("--bundle", type=Path, help="supervised bundle: <supervised artifact>/fold_<last>/hybrid")
    publish.add_argument("--windows", type=Path, help="windows artifact whose newest bars are forecast")
    publish.add_argument("--configs", type=Path, help="configs/<profile>, as in the backtest")
    publish.add_argument("--market", type=Path, help="configs/markets/<asset class>.yaml")
    publish.add_argument("--store", type=Path, required=True, help="folder of served directories")
    publish.add_argument("--pointer", type=Path, required=True, help="JSON file that a running service reads")
    rollback = commands.add_parser("rollback", help="take the champion of a class down, for the one before it, as a signed decision")
    rollback.add_argument("--by", required=True, help="who decides it")
    rollback.add_argument("--reason", required=True)
    for parser_of, is_needed in ((serve, False), (publish, False), (rollback, True)):
        parser_of.add_argument("--champion", metavar="ASSET_CLASS", required=is_needed, help="class whose signed champion is meant")
        parser_of.add_argument("--registry", type=Path, required=is_needed, help="folder of the decisions: data/registry")
    for parser_of in (serve, publish):
        parser_of.add_argument("--artifacts", type=Path, help="folder of what the decisions name: data/artifacts")
    serve.add_argument("--store", type=Path, help="folder of served directories")
    serve.add_argument("--verdicts", type=Path, help="Prometheus text of monitoring, added to /metrics: data/monitoring/<asset class>.prom")
    key = commands.add_parser("key", help="make an API key; its text is printed once and kept nowhere")
    key.add_argument("name")
    key.add_argument("--scope", choices=("predict", "metrics"), default="predict")
    arguments = parser.parse_args(argv)
    try:
        match arguments.command:
            case "key":
                return _print_key(arguments.name, arguments.scope)
            case "publish":
                return _publish(arguments)
            case "rollback":
                return _roll_back(arguments)
        return _serve(arguments)
    except PlusUltraError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _print_key(name: str, scope: str) -> int:
    text, key = make_key(name, ("metrics",) if scope == "metrics" else ("predict",))
    print(f"key (hand over, keep nowhere): {text}", file=sys.stderr)
    print(f"- {json.dumps(config.to_dict(key))}")
    return 0


def _need(arguments: argparse.Namespace, names: tuple[str, ...], never: tuple[str, ...]) -> None:
    """Raises  ConfigError for an option that is missing, or means nothing beside the others."""
    for name in names:
        if getattr(arguments, name) is None:
            raise ConfigError(f"{arguments.command}: --{name} is missing; give {', '.join(f'--{other}' for other in names)}")
    for name in never:
        if getattr(arguments, name) is not None:
            raise ConfigError(f"{arguments.command}: --{name} means nothing beside --{names[0]}; leave it out")


def _publish(arguments: argparse.Namespace) -> int:
    served = _champion_of(arguments) if arguments.champion is not None else _bundle_of(arguments)
    point(arguments.pointer, served)
    print(f"{arguments.pointer}: {served.path.name} {served.sha256}")
    return 0


def _champion_of(arguments: argparse.Namespace) -> Artifact:
    _need(arguments, ("champion", "registry", "artifacts"), ("bundle", "configs", "market"))
    served = publish_champion(arguments.registry, arguments.artifacts, arguments.champion, arguments.store, arguments.windows)
    lineage = served.manifest["lineage"]
    print(f"champion of {arguments.champion}: {lineage['strategy']}, decision {lineage['decision'][:16]}, bars of {lineage['windows_of']}")
    return served


def _bundle_of(arguments: argparse.Namespace) -> Artifact:
    _need(arguments, ("bundle", "windows", "configs", "market"), ("champion", "registry", "artifacts"))
    for name in ("bundle", "windows"):
        if not (folder := getattr(arguments, name)).is_dir():
            raise ArtifactError(f"--{name} {folder}: expected a folder; the asset's page in the UI says where it lies")
    settings = load_settings(arguments.configs, arguments.market)
    return publish_desk(arguments.bundle, arguments.windows, settings, arguments.store)


def _roll_back(arguments: argparse.Namespace) -> int:
    folder = class_folder(arguments.registry, arguments.champion)
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: nothing was ever decided about {arguments.champion!r}; name a class of this registry")
    back = roll_back(folder, read_key(arguments.registry), arguments.champion, arguments.by, arguments.reason)
    print(f"champion of {arguments.champion}: {back.decision.strategy} again, decision {back.signature[:16]}")
    return 0


def _source(arguments: argparse.Namespace) -> Look:
    """What the service looks at: the signed decisions of a class, or a pointer."""
    if arguments.champion is not None:
        _need(arguments, ("champion", "registry", "artifacts", "store"), ("pointer",))
        return Follower(arguments.registry, arguments.artifacts, arguments.champion, arguments.store).look
    _need(arguments, ("pointer",), ("registry", "artifacts", "store"))
    pointer: Path = arguments.pointer
    return lambda state: state.refresh(pointer)


def _serve(arguments: argparse.Namespace) -> int:
    source = _source(arguments)
    cfg = config.load(ServiceConfig, arguments.config)
    keys = config.load(KeysConfig, arguments.keys)
    state = ServiceState(open_desk)
    with closing(open_journal(arguments.journal)) as journal:
        app = create_app(state, cfg, keys, journal, verdicts=arguments.verdicts)
        _look(state, source, app)
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(state, source, app, cfg.refresh_s, stop), daemon=True)
        watcher.start()
        try:
            uvicorn.run(
                app,
                host=cfg.host,
                port=cfg.port,
                limit_concurrency=cfg.max_concurrency,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=10,
            )
        finally:
            stop.set()
            watcher.join()
    return 0


def _watch(state: ServiceState, source: Look, app: FastAPI, refresh_s: float, stop: threading.Event) -> None:
    while not stop.wait(refresh_s):
        _look(state, source, app)


def _look(state: ServiceState, source: Look, app: FastAPI) -> None:
    told = state.refusal
    taken = source(state)
    if taken is None or (not taken and state.refusal == told):
        return
    app.state.gauges.count_swap(taken)
    served = state.served
    print(f"serving {served.sha256}" if taken and served else f"refused: {state.refusal}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
