"""YAML to objects: the only place where a string becomes a class.

A config is one or more YAML files merged in order, then `key=value` overrides; a file may extend another. A mapping
with a `target` is built by calling it with its other keys; nested targets are built first. Targets live in this
project, torch, torchvision, timm or taming; anything else is refused.
"""

import importlib
import inspect
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ldm.errors import UserError

TRUSTED = ("ldm.", "data_prep.", "torch.", "torchvision.", "timm.", "taming.")


def load_config(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> DictConfig:
    """Merge YAML `files`, then dotted `key=value` overrides, into one resolved config.

    Raises UserError for a missing or malformed file, or an override of a key that no file has.
    """
    merged: Any = OmegaConf.create({})
    for file in files:
        merged = _merge(merged, _read(Path(file)))
    for item in overrides:
        key, equals, _ = item.partition("=")
        if not equals:
            raise UserError(f"override: {item} has no '='; expected key=value, for example training.batch_size=8")
        parent, _, leaf = key.rpartition(".")
        node = OmegaConf.select(merged, parent) if parent else merged
        if not isinstance(node, DictConfig) or leaf not in node:
            known = ", ".join(map(str, node)) if isinstance(node, DictConfig) else "nothing"
            raise UserError(f"override: no config file has {key}; {parent or 'the top level'} has {known}")
        merged = _merge(merged, OmegaConf.from_dotlist([item]))
    try:
        OmegaConf.resolve(merged)
    except OmegaConfBaseException as error:
        raise UserError(f"config: {' '.join(str(error).split())}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _read(path: Path) -> Any:
    """One file, on top of the one it names in `extends` (a path beside it)."""
    if not path.is_file():
        raise UserError(f"config: {path} does not exist; expected a YAML file, for example configs/demo/zoomldm.yaml")
    try:
        config = OmegaConf.load(path)
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"config: {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"config: {path} is not a mapping of keys to values")
    extends = config.pop("extends", None)
    return config if extends is None else _merge(_read(path.parent / extends), config)


def _merge(old: DictConfig, new: DictConfig) -> Any:
    """`new` on top of `old`; a mapping with another target replaces the old one, whose keys mean nothing to it."""
    return OmegaConf.create(_merged(OmegaConf.to_container(old), OmegaConf.to_container(new)))


def _merged(old: Any, new: Any) -> Any:
    if (
        not isinstance(old, dict)
        or not isinstance(new, dict)
        or new.get("target", old.get("target")) != old.get("target")
    ):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}


def build(config: Any, where: str = "config", **given: Any) -> Any:
    """Build the object that `config` describes; `given` adds built arguments.

    Raises UserError for a target outside TRUSTED, one that does not exist, or keys it does not take.
    """
    if isinstance(config, DictConfig | ListConfig):
        config = OmegaConf.to_container(config, resolve=True)
    if not isinstance(config, dict) or "target" not in config:
        raise UserError(f"{where}: needs a mapping with a target, found {config!r}")
    target = find(config["target"], where)
    arguments = {key: _nested(value, f"{where}.{key}") for key, value in config.items() if key != "target"}
    arguments |= given
    check_arguments(target, arguments, where)
    return target(**arguments)


def _nested(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return build(value, where) if "target" in value else {k: _nested(v, f"{where}.{k}") for k, v in value.items()}
    return [_nested(item, where) for item in value] if isinstance(value, list) else value


def find(name: str, where: str) -> Callable[..., Any]:
    """The class or function that a dotted `name` means."""
    if not str(name).startswith(TRUSTED):
        raise UserError(f"{where}: target {name} is refused; a target starts with one of {', '.join(TRUSTED)}")
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{where}: target {name} does not exist ({error})") from error
    if not callable(found):
        raise UserError(f"{where}: target {name} is not a class or a function")
    return found


def check_keys(config: Any, where: str, expected: Collection[str], optional: Collection[str] = ()) -> None:
    """Refuse a mapping that lacks one of `expected`, or has a key that is neither expected nor optional."""
    if not isinstance(config, DictConfig):
        raise UserError(f"{where}: needs a mapping with {', '.join(expected)}, found {config!r}")
    missing = [key for key in expected if key not in config]
    unknown = [str(key) for key in config if key not in expected and key not in optional]
    if missing or unknown:
        wrong = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has no use for {', '.join(unknown)}"] * bool(
            unknown
        )
        raise UserError(f"{where}: {' and '.join(wrong)}; it takes {', '.join([*expected, *optional])}")


def check_arguments(target: Callable[..., Any], arguments: dict[str, Any], where: str) -> None:
    """Refuse keys that `target` does not take and name those it does."""
    parameters = inspect.signature(target).parameters.values()
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    name = getattr(target, "__name__", str(target))
    for key in arguments:
        if key not in known:
            raise UserError(f"{where}: {name} has no {key}; it takes {', '.join(known)}")
    required = [p.name for p in parameters if p.default is p.empty and p.name in known]
    missing = [key for key in required if key not in arguments]
    if missing:
        raise UserError(f"{where}: {name} needs {', '.join(missing)}")
