"""Validation errors told in words, with what is allowed read from the published JSON Schema."""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from pricelab_dagster.lab.errors import SHOWN_CHARACTERS, Found, LabError, Rule

Schema = dict[str, Any]
Location = Sequence[str | int]
TAG_ERRORS = {"union_tag_invalid": None, "union_tag_not_found": Found.MISSING}
TYPE_WORDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "null": "null"}
BOUND_WORDS = {
    "minimum": "of at least",
    "exclusiveMinimum": "above",
    "maximum": "of at most",
    "exclusiveMaximum": "below",
}


def explain(file: str, error: ValidationError, model: type[BaseModel]) -> LabError:
    """The most useful validation error as a `LabError`: an unknown key first, since it explains missing ones."""
    problems = error.errors(include_url=False)
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    kind, location, found = problem["type"], problem["loc"], problem["input"]
    schema = _schema(model)
    if kind == "extra_forbidden":
        return _unknown_key(file, schema, location)
    if kind in TAG_ERRORS and isinstance(found, dict):
        found, location = TAG_ERRORS[kind] or found["kind"], (*location, "kind")
    key, options, field = _walk(schema, location)
    rule = problem.get("ctx", {}).get("error")
    if isinstance(rule, Rule):
        return rule.at(file, ".".join([*key, rule.key] if rule.key else key), found)
    if kind == "missing":
        found = Found.MISSING
    elif field.get("writeOnly"):
        found = Found.HIDDEN
    return LabError(file, ".".join(key), found, _allowed(options), _remedy(field))


@cache
def _schema(model: type[BaseModel]) -> Schema:
    return model.model_json_schema()


def _unknown_key(file: str, schema: Schema, location: Location) -> LabError:
    key, options, _ = _walk(schema, location[:-1])
    name = str(location[-1])[:SHOWN_CHARACTERS]
    allowed = list(dict.fromkeys(each for option in options for each in option.get("properties", {})))
    close = get_close_matches(name, allowed, n=1)
    if close:
        remedy = f"Did you mean {close[0]}?"
    elif name.isidentifier():
        remedy = "Remove it, or use one of these."
    else:
        remedy = "Put a value with a comma or a colon in quotes."
    return LabError(file, ".".join([*key, name]), Found.UNKNOWN, f"one of {', '.join(allowed)}", remedy)


def _walk(schema: Schema, location: Location) -> tuple[list[str], list[Schema], Schema]:
    """The dotted key, the concrete schemas and the property's own schema at `location`.

    Parts of `location` that name a branch of a union choose that branch and do not enter the key.
    """
    key: list[str] = []
    field = schema
    options = [schema]
    for part in location:
        children = [child for option in options if (child := _child(option, part)) is not None]
        if children:
            key.append(str(part))
            options = [concrete for child in children for concrete in _concrete(child, schema)]
            inherited = field if isinstance(part, int) else {}
            field = inherited | options[0] | children[0]
        else:
            options = [option for option in options if _is_tagged(option, part)] or options
    return key, options, field


def _child(option: Schema, part: str | int) -> Schema | None:
    if isinstance(part, int):
        return option.get("items")
    return option.get("properties", {}).get(part)


def _is_tagged(option: Schema, part: str | int) -> bool:
    return option.get("properties", {}).get("kind", {}).get("const") == part


def _concrete(schema: Schema, root: Schema) -> list[Schema]:
    if "$ref" in schema:
        return _concrete(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root)
    branches = schema.get("anyOf") or schema.get("oneOf")
    return [each for branch in branches for each in _concrete(branch, root)] if branches else [schema]


def _allowed(options: Sequence[Schema]) -> str:
    mappings = [option for option in options if option.get("type") == "object"]
    words = list(dict.fromkeys("a mapping" if len(mappings) > 1 and o in mappings else _words(o) for o in options))
    if all("const" in option for option in options):
        return f"one of {', '.join(words)}"
    return " or ".join(words)


def _words(option: Schema) -> str:
    if "const" in option:
        return str(option["const"])
    if "enum" in option:
        return f"one of {', '.join(map(str, option['enum']))}"
    kind = option.get("type", "")
    if kind == "object":
        return f"a mapping with {', '.join(option.get('properties', {}))}"
    if kind == "array":
        items = option.get("items", {})
        return f"a list of {_words(items)}" if "type" in items or "enum" in items else "a list of mappings"
    if kind == "string":
        return _string_words(option)
    step = option.get("multipleOf")
    noun = TYPE_WORDS[kind] if step is None else "an even number" if step == 2 else f"a multiple of {step}"
    bounds = " and ".join(f"{words} {option[name]}" for name, words in BOUND_WORDS.items() if name in option)
    return f"{noun} {bounds}".strip()


def _string_words(option: Schema) -> str:
    if option.get("format") == "date":
        return "a date such as 2017-06-05"
    return f"text of the form {option['pattern'].strip('^$')}" if "pattern" in option else "text in quotes"


def _remedy(field: Schema) -> str:
    description = field.get("description", "A value of that kind.")
    return f"Give {description[0].lower()}{description[1:]}"
