"""`python -m plusultra_core.service publish ...` names what is served, `... serve ...` opens the door, `... key NAME` makes a key."""

import argparse
import json
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from plusultra_core import config
from plusultra_core.errors import ArtifactError, PlusUltraError
from plusultra_core.service.app import ServiceConfig, create_app
from plusultra_core.service.auth import KeysConfig, make_key
from plusultra_core.service.desk import load_settings, open_desk, publish_desk
from plusultra_core.service.journal import open_journal
from plusultra_core.service.state import ServiceState, point


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, do what it says, translate errors into one line."""
    parser = argparse.ArgumentParser(prog="python -m plusultra_core.service", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="answer on loopback until stopped")
    serve.add_argument("--config", type=Path, required=True, help="configs/<profile>/service.yaml")
    serve.add_argument("--pointer", type=Path, required=True, help="JSON file that names the served directory and its sha256")
    serve.add_argument("--keys", type=Path, required=True, help="YAML file with the hashes of the API keys")
    serve.add_argument("--journal", type=Path, required=True, help="SQLite file, made if it is not there")
    publish = commands.add_parser("publish", help="copy a bundle and its windows into a served directory, open it once and point to it")
    publish.add_argument("--bundle", type=Path, required=True, help="supervised bundle: <supervised artifact>/fold_<last>/hybrid")
    publish.add_argument("--windows", type=Path, required=True, help="windows artifact whose newest bars are forecast")
    publish.add_argument("--configs", type=Path, required=True, help="configs/<profile>, as in the backtest")
    publish.add_argument("--market", type=Path, required=True, help="configs/markets/<asset class>.yaml")
    publish.add_argument("--store", type=Path, required=True, help="folder of served directories")
    publish.add_argument("--pointer", type=Path, required=True, help="JSON file that a running service reads")
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
        return _serve(arguments)
    except PlusUltraError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _print_key(name: str, scope: str) -> int:
    text, key = make_key(name, ("metrics",) if scope == "metrics" else ("predict",))
    print(f"key (hand over, keep nowhere): {text}", file=sys.stderr)
    print(f"- {json.dumps(config.to_dict(key))}")
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    for name in ("bundle", "windows"):
        if not (folder := getattr(arguments, name)).is_dir():
            raise ArtifactError(f"--{name} {folder}: expected a folder; the asset's page in the UI says where it lies")
    settings = load_settings(arguments.configs, arguments.market)
    served = publish_desk(arguments.bundle, arguments.windows, settings, arguments.store)
    point(arguments.pointer, served)
    print(f"{arguments.pointer}: {served.path.name} {served.sha256}")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    cfg = config.load(ServiceConfig, arguments.config)
    keys = config.load(KeysConfig, arguments.keys)
    state = ServiceState(open_desk)
    with closing(open_journal(arguments.journal)) as journal:
        app = create_app(state, cfg, keys, journal)
        _look(state, arguments.pointer, app)
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(state, arguments.pointer, app, cfg.refresh_s, stop), daemon=True)
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


def _watch(state: ServiceState, pointer: Path, app: FastAPI, refresh_s: float, stop: threading.Event) -> None:
    while not stop.wait(refresh_s):
        _look(state, pointer, app)


def _look(state: ServiceState, pointer: Path, app: FastAPI) -> None:
    told = state.refusal
    taken = state.refresh(pointer)
    if taken is None or (not taken and state.refusal == told):
        return
    app.state.gauges.count_swap(taken)
    served = state.served
    print(f"serving {served.sha256}" if taken and served else f"refused: {state.refusal}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
