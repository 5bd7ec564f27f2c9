"""YAML to objects: the only place where a string becomes a class.

A config is one or more YAML files merged in order, then `key=value` overrides; a file may extend another. A mapping
with a `target` is built by calling it with its other keys; nested targets are built first.

A config may come from anybody, beside weights. So it runs nothing but the constructors of networks, losses and
optimisers, reads no other value than its own (`${key}`, no resolver), and cannot unfold without end.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import AliasEvent, CollectionEndEvent, CollectionStartEvent, YAMLError, parse

from ldm.errors import UserError

FUNCTIONS = ("ldm.diffusion.",)
CLASSES = (
    *FUNCTIONS,
    "ldm.networks.",
    "ldm.layers.",
    "ldm.training.",
    "torch.nn.",
    "torch.optim.",
    "timm.optim.",
    "taming.modules.losses.",
)
"""where targets live: by the name in the config and by the module that defines them"""
DEEPEST = 32
KEY = re.compile(r"\$\{[\w.\[\]]+\}")
SYNTAX = (OmegaConfBaseException, YAMLError, UnicodeDecodeError, RecursionError)
VALUES = (ArithmeticError, AssertionError, MemoryError, RuntimeError, TypeError, ValueError)
"""what a constructor raises when a value does not suit it"""


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
        try:
            merged = _merge(merged, OmegaConf.from_dotlist([item]))
        except SYNTAX as error:
            raise UserError(f"override: {item} is not valid YAML: {_line(error)}") from error
    _refuse_resolvers(OmegaConf.to_container(merged), "config")
    try:
        OmegaConf.resolve(merged)
    except OmegaConfBaseException as error:
        raise UserError(f"config: {_line(error)}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _read(path: Path, extending: tuple[Path, ...] = ()) -> Any:
    """One file, on top of the one it names in `extends` (a path beside it)."""
    if not path.is_file():
        raise UserError(f"config: {path} does not exist; expected a YAML file, for example configs/demo/zoomldm.yaml")
    if path.resolve() in extending:
        raise UserError(f"config: {path} extends itself; take one of the extends out")
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_unfolding(path, text)
        config = OmegaConf.create(text)
    except SYNTAX as error:
        raise UserError(f"config: {path} is not valid YAML: {_line(error)}") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"config: {path} is not a mapping of keys to values")
    extends = config.pop("extends", None)
    if extends is None:
        return config
    if not isinstance(extends, str):
        raise UserError(f"config: {path}: extends is {extends!r}; expected the path of one YAML file")
    return _merge(_read(path.parent / extends, (*extending, path.resolve())), config)


def _refuse_unfolding(path: Path, text: str) -> None:
    """UserError for YAML whose values are much larger than its text, or nested without end."""
    depth = 0
    for event in parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if isinstance(event, AliasEvent):
            raise UserError(f"config: {path} has YAML aliases (*name); write values out, or refer to them as ${{key}}")
        if depth > DEEPEST:
            raise UserError(f"config: {path} is nested more than {DEEPEST} deep; it is no config of this project")


def _refuse_resolvers(value: Any, where: str) -> None:
    """UserError for a string that asks for anything but another value of the config."""
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_resolvers(item, f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            _refuse_resolvers(item, where)
    elif isinstance(value, str) and "${" in KEY.sub("", value):
        raise UserError(f"{where}: {value!r} is refused; only the config's own values can be asked for, as ${{key}}")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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

    Raises UserError for a target outside CLASSES, one that does not exist, or keys or values it does not take.
    """
    if isinstance(config, DictConfig | ListConfig):
        config = OmegaConf.to_container(config, resolve=True)
    if not isinstance(config, dict) or "target" not in config:
        raise UserError(f"{where}: needs a mapping with a target, found {config!r}")
    target = find(config["target"], where)
    arguments = {key: _nested(value, f"{where}.{key}") for key, value in config.items() if key != "target"}
    arguments |= given
    check_arguments(target, arguments, where)
    try:
        return target(**arguments)
    except UserError:
        raise
    except VALUES as error:
        raise UserError(
            f"{where}: {config['target']} refuses its values ({type(error).__name__}: {_line(error)})"
        ) from error


def _nested(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return build(value, where) if "target" in value else {k: _nested(v, f"{where}.{k}") for k, v in value.items()}
    return [_nested(item, where) for item in value] if isinstance(value, list) else value


def find(name: str, where: str) -> Callable[..., Any]:
    """The class, or the function of FUNCTIONS, that a dotted `name` means.

    It must be defined where targets live too: `torch.nn.modules.module.partial` is none of torch's.
    """
    if not isinstance(name, str) or not name.startswith(CLASSES):
        raise UserError(f"{where}: target {name} is refused; a target starts with one of {', '.join(CLASSES)}")
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{where}: target {name} does not exist ({error})") from error
    home = f"{getattr(found, '__module__', None)}."
    if not home.startswith(CLASSES if isinstance(found, type) else FUNCTIONS):
        raise UserError(f"{where}: target {name} is refused; it is no class of {', '.join(CLASSES)}")
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
