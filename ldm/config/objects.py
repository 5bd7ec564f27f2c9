"""YAML to objects: the only place where a string becomes a class.

A config is one or more YAML files merged in order, then `key=value` overrides; a file may extend another. A mapping
with a `target` is built by calling it with its other keys; nested targets are built first.

Configs are untrusted, since they come with weights: a config can only call constructors of networks, losses and
optimisers, refer to its own values (`${key}`, no resolvers), and its size is bounded.
"""

import importlib
import inspect
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import PydanticUserError
from yaml import AliasEvent, CollectionEndEvent, CollectionStartEvent, YAMLError, parse

from ldm.config.schema import check, nearest, unknown_key
from ldm.errors import UserError
from ldm.support.bundled_configs import config_file

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
"""packages that a target may name, and in which it must be defined"""
DEEPEST = 32
LARGEST, LONGEST = 2**20, 2**12
"""largest config file in bytes, largest value in characters"""
KEY = re.compile(r"\$\{([\w.]+)\}")
PENDING = object()
SYNTAX = (OmegaConfBaseException, YAMLError, UnicodeDecodeError, RecursionError)
VALUES = (ArithmeticError, AssertionError, AttributeError, MemoryError, RuntimeError, TypeError, ValueError)
"""exceptions of a constructor that is given an unsuitable value"""


def load_config(files: Sequence[str | Path], overrides: Sequence[str] = (), kind: str = "zoomldm") -> DictConfig:
    """Merge YAML `files`, then dotted `key=value` overrides, into one config without references.

    A file is a path, or the name of a bundled config of a `kind` (ldm/support/bundled_configs.py).

    Raises UserError for a missing or malformed file, or an override of a key that no file has.
    """
    merged: dict[str, Any] = {}
    for file in files:
        merged = _merged(merged, _read(config_file(file, kind)))
    for item in overrides:
        merged = _merged(merged, _override(merged, item))
    config = OmegaConf.create(resolved(merged))
    assert isinstance(config, DictConfig)
    return config


def _override(merged: dict[str, Any], item: str) -> dict[str, Any]:
    """`key=value` as a config. UserError for a key that `merged` lacks."""
    key, equals, _ = item.partition("=")
    if not equals:
        raise UserError(f"override: {item} has no '='; expected key=value, for example training.batch_size=8")
    node: Any = merged
    *parents, leaf = key.split(".")
    for depth, step in enumerate([*parents, leaf]):
        if not isinstance(node, dict) or step not in node:
            parent = ".".join(parents[:depth]) or "the top level"
            known = [str(name) for name in node] if isinstance(node, dict) else []
            raise UserError(
                f"override: no config file has {key}{nearest(step, known) or ';'} {parent} has "
                f"{', '.join(known) or 'no keys'}"
            )
        node = node[step]
    try:
        return _plain(OmegaConf.from_dotlist([item]))
    except (*SYNTAX, ValueError) as error:
        raise UserError(f"override: {item} is not valid YAML: {_line(error)}") from error


def _read(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """One file, on top of the one it names in `extends`."""
    if not path.is_file():
        raise UserError(f"config: {path} does not exist; expected a YAML file, for example configs/demo/zoomldm.yaml")
    if path.resolve() in extending:
        raise UserError(f"config: {path} extends itself; take one of the extends out")
    if (size := path.stat().st_size) > LARGEST:
        raise UserError(f"config: {path} has {size:,} bytes; expected a YAML file of at most {LARGEST:,}")
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_unfolding(path, text)
        config = _plain(OmegaConf.create(text))
    except SYNTAX as error:
        raise UserError(f"config: {path} is not valid YAML: {_line(error)}") from error
    if not isinstance(config, dict):
        raise UserError(f"config: {path} is not a mapping of keys to values")
    if "extends" not in config:
        return config
    extends = config.pop("extends")
    return _merged(_read(_extended(path, extends), (*extending, path.resolve())), config)


def _extended(path: Path, extends: Any) -> Path:
    """The file that `path` extends: a YAML file in its own folder or, where it lies in a folder `configs`, in that one.

    UserError for one that lies elsewhere, also by a link.
    """
    if not isinstance(extends, str) or not extends.endswith((".yaml", ".yml")) or Path(extends).is_absolute():
        raise UserError(f"config: {path}: extends is {extends!r}; expected the relative path of one YAML file")
    folder = path.absolute().parent
    room = next((parent for parent in (folder, *folder.parents) if parent.name == "configs"), folder)
    found = path.parent / extends
    if not found.resolve().is_relative_to(room.resolve()):
        raise UserError(f"config: {path}: extends is {extends!r}, which lies outside {room}; copy that file into it")
    return found


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config) if OmegaConf.is_config(config) else config


def _refuse_unfolding(path: Path, text: str) -> None:
    """UserError for YAML with aliases, whose values can be much larger than its text, or nested too deeply."""
    depth = 0
    for event in parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if isinstance(event, AliasEvent):
            raise UserError(f"config: {path} has YAML aliases (*name); write values out, or refer to them as ${{key}}")
        if depth > DEEPEST:
            raise UserError(f"config: {path} is nested more than {DEEPEST} deep; it is no config of this project")


def resolved(values: Any) -> Any:
    """`values` with every `${key}` replaced by the text or number that stands at that key.

    Substituted values are not parsed again, so no reference can be assembled from parts. UserError for a
    reference to anything else: a list, a mapping, the environment.
    """
    known: dict[str, Any] = {}

    def of(value: Any, where: str) -> Any:
        if isinstance(value, dict):
            return {key: of(item, f"{where}.{key}".lstrip(".")) for key, item in value.items()}
        if isinstance(value, list):
            return [of(item, where) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config: {where}: {value} found, expected a finite number")
        return text(value, where) if isinstance(value, str) else value

    def text(value: str, where: str) -> Any:
        whole = KEY.fullmatch(value)
        found = named(whole[1], where) if whole else KEY.sub(lambda match: str(named(match[1], where)), value)
        if isinstance(found, str) and ("${" in found or found == "???" or len(found) > LONGEST):
            raise UserError(
                f"config: {where or 'value'}: {value[:80]!r} is refused; expected text, or a key of this config as "
                "${key} whose value is text or a number"
            )
        return found

    def named(key: str, where: str) -> Any:
        if key not in known:
            known[key] = PENDING
            value: Any = values
            for step in key.split("."):
                value = value.get(step, PENDING) if isinstance(value, dict) else PENDING
            known[key] = text(value, key) if isinstance(value, str) else value
        if known[key] is PENDING or isinstance(known[key], dict | list):
            raise UserError(f"config: {where}: ${{{key}}} is no text or number of this config, or refers to itself")
        return known[key]

    return of(values, "")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _merged(old: Any, new: Any) -> Any:
    """`new` merged over `old`; a mapping with another target replaces the old mapping entirely."""
    if (
        not isinstance(old, dict)
        or not isinstance(new, dict)
        or new.get("target", old.get("target")) != old.get("target")
    ):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}


def build(config: Any, where: str = "config", kind: type | None = None, **given: Any) -> Any:
    """Build the object that `config` describes; `given` adds built arguments.

    Raises UserError for a target outside CLASSES, one that does not exist or does not make a `kind`, or keys or values
    that it does not take.
    """
    if isinstance(config, DictConfig | ListConfig):
        config = OmegaConf.to_container(config, resolve=True)
    if not isinstance(config, dict) or "target" not in config:
        raise UserError(f"{where}: needs a mapping with a target, found {config!r}")
    target = find(config["target"], where)
    plain = {key: value for key, value in config.items() if key != "target"}
    arguments = {key: _nested(value, f"{where}.{key}") for key, value in plain.items()} | given
    check_arguments(target, arguments, where)
    check_values(target, plain, arguments, where)
    try:
        made = target(**arguments)
    except UserError:
        raise
    except VALUES as error:
        raise UserError(
            f"{where}: {config['target']} refuses its values ({type(error).__name__}: {_line(error)})"
        ) from error
    if kind is not None and not isinstance(made, kind):
        raise UserError(f"{where}: {config['target']} makes no {kind.__name__}; name another target")
    return made


def check_values(target: Callable[..., Any], plain: dict[str, Any], arguments: dict[str, Any], where: str) -> None:
    """Refuse `plain` values that the annotations of `target` do not allow, and objects built from them that are none
    of what it takes.
    """
    try:
        makers = [vars(base)["__init__"] for base in getattr(target, "__mro__", ()) if "__init__" in vars(base)]
        hints = get_type_hints(makers[0] if makers else target, include_extras=True)
    except (NameError, TypeError):  # constructors of other packages
        hints = {}
    for key, value in plain.items():
        place = f"{where}.{key}"
        hint = hints.get(key, Any)
        if arguments[key] == value:
            with suppress(PydanticUserError):  # an annotation that pydantic does not know
                check(hint, value, place)
        elif isinstance(hint, type) and not isinstance(arguments[key], hint):
            raise UserError(f"{place}: {type(arguments[key]).__name__} found, expected {hint.__name__}")


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


def check_arguments(target: Callable[..., Any], arguments: dict[str, Any], where: str) -> None:
    """Refuse keys that `target` does not take and name those it does."""
    parameters = inspect.signature(target).parameters.values()
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    name = getattr(target, "__name__", str(target))
    for key in arguments:
        if key not in known:
            raise unknown_key(f"{where}: {name}", key, known)
    required = [p.name for p in parameters if p.default is p.empty and p.name in known]
    missing = [key for key in required if key not in arguments]
    if missing:
        raise UserError(f"{where}: {name} needs {', '.join(missing)}")
