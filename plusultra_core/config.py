"""Strict YAML <-> frozen dataclass, and the digest that names a config.

A config file is complete: every field is there, none is unknown, every type is exact. YAML's
surprises are refused: duplicate keys, aliases, `1e-4` (which YAML reads as text), `no` for a string.
"""

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Hashable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import yaml

from plusultra_core.errors import ConfigError

T = TypeVar("T")


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, aliases and merge keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            raise ConfigError(f"{self._place()}: aliases are not allowed; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ConfigError(f"{self._place(key_node)}: expected a text key, found {key!r}; quote it")
            if key in seen:
                raise ConfigError(f"{self._place(key_node)}: key {key!r} stands twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def _place(self, node: yaml.Node | None = None) -> str:
        mark = node.start_mark if node is not None else self.get_mark()
        return f"{self.name}:{mark.line + 1}"


def read_yaml(path: Path) -> dict[str, object]:
    """The mapping in a YAML file, read strictly.

    Raises  ConfigError when the file is missing, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); name a file under configs/") from error
    loader = _StrictLoader(text)
    loader.name = str(path)
    try:
        value = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    finally:
        loader.dispose()
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping, found {type(value).__name__}")
    return value


def load(cls: type[T], path: Path, overrides: Mapping[str, object] | None = None) -> T:
    """The config of a station from its file, with dotted keys laid over it (`loss.weight: 2.0`).

    Raises  ConfigError naming file and key for anything unknown, missing or of another type.
    """
    return parse(cls, read(path, overrides), str(path))


def read(path: Path, overrides: Mapping[str, object] | None = None) -> dict[str, object]:
    """What `load` parses: the mapping in the file with the overrides laid over it, for whoever must not load the dataclass.

    Raises  ConfigError when the file is no mapping or an override names no key of it.
    """
    value = read_yaml(path)
    for dotted, new in (overrides or {}).items():
        _override(value, dotted, new, str(path))
    return value


def parse(cls: type[T], value: object, where: str) -> T:
    """`value` (of JSON types) as an instance of the dataclass `cls`; strict in keys and types."""
    return cast(T, _convert(cls, value, where))


def to_dict(cfg: object) -> dict[str, Any]:
    """A config as JSON types; `parse(type(cfg), to_dict(cfg), "")` gives an equal one."""
    return cast(dict[str, Any], json.loads(_canonical(dataclasses.asdict(cast(Any, cfg)))))


def digest(cfg: object) -> str:
    """16 hex digits that name the values of a config, whatever file they came from."""
    return hashlib.sha256(_canonical(to_dict(cfg)).encode()).hexdigest()[:16]


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _override(value: dict[str, object], dotted: str, new: object, where: str) -> None:
    *parents, last = dotted.split(".")
    node: object = value
    for name in parents:
        if not isinstance(node, dict) or name not in node:
            raise ConfigError(f"{where}: override {dotted!r} names no key of this file")
        node = node[name]
    if not isinstance(node, dict) or last not in node:
        raise ConfigError(f"{where}: override {dotted!r} names no key of this file")
    node[last] = new


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _convert(hint: Any, value: object, where: str) -> object:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _convert_dataclass(cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(typing.get_args(hint), value, where)
    if origin is Literal:
        if any(value == option and type(value) is type(option) for option in typing.get_args(hint)):
            return value
        raise ConfigError(f"{where}: expected one of {list(typing.get_args(hint))}, found {value!r}")
    if origin is tuple:
        return _convert_tuple(typing.get_args(hint), value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a mapping, found {value!r}")
        _, value_hint = typing.get_args(hint)
        return {key: _convert(value_hint, item, f"{where}.{key}") for key, item in value.items()}
    return _convert_scalar(hint, value, where)


def _convert_dataclass(cls: type, value: object, where: str) -> object:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a mapping for {cls.__name__}, found {value!r}")
    hints = _hints(cls)
    fields = {field.name for field in dataclasses.fields(cls) if field.init}
    if unknown := sorted(set(value) - fields):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; {cls.__name__} has {sorted(fields)}")
    if missing := sorted(fields - set(value)):
        raise ConfigError(f"{where}: missing key {missing[0]!r}; a config is complete, write its value")
    prefix = f"{where}." if ": " in where else f"{where}: "
    converted = {key: _convert(hints[key], item, f"{prefix}{key}") for key, item in value.items()}
    try:
        return cls(**converted)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _convert_union(hints: tuple[Any, ...], value: object, where: str) -> object:
    if value is None and type(None) in hints:
        return None
    options = [hint for hint in hints if hint is not type(None)]
    errors: list[str] = []
    for hint in options:
        try:
            return _convert(hint, value, where)
        except ConfigError as error:
            errors.append(str(error))
    raise ConfigError(errors[0] if len(errors) == 1 else f"{where}: fits none of {options}: {errors}")


def _convert_tuple(hints: tuple[Any, ...], value: object, where: str) -> object:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where}: expected a list, found {value!r}")
    if len(hints) == 2 and hints[1] is Ellipsis:
        return tuple(_convert(hints[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(hints) != len(value):
        raise ConfigError(f"{where}: expected {len(hints)} values, found {len(value)}")
    return tuple(_convert(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True)))


def _convert_scalar(hint: Any, value: object, where: str) -> object:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) < 2**1000 else math.inf
        if not math.isfinite(number):
            raise ConfigError(f"{where}: expected a finite number, found {value!r}")
        return number
    if hint in (int, bool, str) and type(value) is hint:
        return value
    remedy = "; YAML reads 1e-4 as text, write 1.0e-4" if hint is float and isinstance(value, str) else ""
    name = getattr(hint, "__name__", str(hint))
    raise ConfigError(f"{where}: expected {name}, found {value!r}{remedy}")
