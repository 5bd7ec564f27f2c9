"""Check values against types and ranges, by pydantic; a mistake is reported in one line.

A schema is a Section (a mapping with known keys), a dataclass with `__pydantic_config__ = STRICT`, or any annotation.
Types are strict: 1.5 and true are not whole numbers, "1" is not a number, nan and inf are refused.
"""

import difflib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ldm.errors import UserError

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
SHOWN = 60
"""characters of a value that a message shows"""

Natural = Annotated[int, Field(ge=0, le=10**9)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Counts = Annotated[Sequence[Count], Field(min_length=1, max_length=16)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""a name or a path"""

UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")
WORDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "text",
    "string_pattern_mismatch": "text without control characters",
    "model_type": "a mapping of keys to values",
    "dataclass_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "list_type": "a list",
    "tuple_type": "a list",
    "sequence_type": "a list",
    "none_required": "null",
    "finite_number": "a finite number",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
}


class Section(BaseModel):
    """A mapping with a fixed set of keys."""

    model_config = STRICT


def check(schema: Any, values: Any, where: str, ignored: Collection[str] = ()) -> Any:
    """`values` (plain: text, numbers, lists, mappings) as `schema` describes them.

    `ignored`: top-level keys whose mistakes are tolerated; None is returned where there were some.
    UserError that names the first mistake: unknown keys with the nearest known one, missing keys, then values.
    """
    try:
        text = json.dumps(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: holds something that is not text, number, list or mapping ({error})") from error
    configured = hasattr(schema, "model_config") or hasattr(schema, "__pydantic_config__")
    adapter: Any = TypeAdapter(schema, config=None if configured else STRICT)
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        wrong: list[Any] = [each for each in error.errors() if not each["loc"] or each["loc"][0] not in ignored]
        if wrong:
            raise _told(schema, wrong, values, where) from error
    return None


def nearest(key: object, known: Iterable[object]) -> str:
    """ "; did you mean ...?", where a known key is like `key`."""
    like = difflib.get_close_matches(str(key), [str(name) for name in known], 1, 0.5)
    return f"; did you mean {like[0]}?" if like else ""


def unknown_key(where: str, key: object, known: Collection[object]) -> UserError:
    """The error for an unknown key."""
    return UserError(f"{where} has no {key}{nearest(key, known) or ';'} it takes {', '.join(map(str, known))}")


def _told(schema: Any, wrong: Sequence[Any], values: Any, where: str) -> UserError:
    for kinds in (UNKNOWN, MISSING):
        if first := next((each for each in wrong if each["type"] in kinds), None):
            *parents, key = first["loc"]
            known = _known(schema, parents)
            if kinds is UNKNOWN:
                return unknown_key(_place(where, parents), key, known)
            missing = [each["loc"][-1] for each in wrong if each["type"] in MISSING and [*each["loc"][:-1]] == parents]
            return UserError(
                f"{_place(where, parents)}: lacks {', '.join(map(str, missing))}; it takes {', '.join(known)}"
            )
    if isinstance(own := wrong[0].get("ctx", {}).get("error"), UserError):
        return own
    place, value = _found(values, wrong[0]["loc"])
    same = [each for each in wrong if _found(values, each["loc"])[0] == place]
    expected = dict.fromkeys(WORDS.get(each["type"], each["msg"]).format_map(each.get("ctx", {})) for each in same)
    return UserError(f"{_place(where, place)}: {_shown(value)} found, expected {' or '.join(expected)}")


def _place(where: str, loc: Sequence[Any]) -> str:
    """The dotted path of a key below `where`; the top of a config has no name."""
    names = [*([] if where == "config" and loc else [where]), *loc]
    return ".".join(map(str, names))


def _found(values: Any, loc: Sequence[Any]) -> tuple[list[Any], Any]:
    """The value at `loc`, as far as it exists: for unions pydantic appends the type's name to the location."""
    place = []
    for step in loc:
        inside = step in values if isinstance(values, Mapping) else isinstance(values, list) and isinstance(step, int)
        if not inside:
            break
        place.append(step)
        values = values[step]
    return place, values


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _known(schema: Any, loc: Sequence[Any]) -> list[str]:
    """The keys of the Section or dataclass at `loc` inside `schema`."""
    for step in loc:
        fields = _fields(schema)
        schema = next((kind for kind in _kinds(fields[step]) if _fields(kind)), None) if step in fields else schema
    return list(_fields(schema))


def _fields(schema: Any) -> dict[str, Any]:
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return {name: field.annotation for name, field in schema.model_fields.items()}
    return {name: field.type for name, field in schema.__dataclass_fields__.items()} if is_dataclass(schema) else {}


def _kinds(annotation: Any) -> list[Any]:
    """An annotation and, for a union, its members."""
    return [annotation, *(kind for part in get_args(annotation) for kind in _kinds(part))]
