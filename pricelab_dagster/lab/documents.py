"""YAML documents read as plain text, numbers, lists and mappings, with faults told by line."""

import re
from pathlib import Path
from typing import Any

import yaml

from pricelab_dagster.lab.errors import LabError, one_line

YAML_RULE = "a YAML mapping of keys to values"
WHOLE_NUMBER = r"(?:0|[1-9][0-9]*)"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars, so that NO, 0123 and 1:30 stay text; dates stay text for the model to judge."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            text = key.tag == "tag:yaml.org,2002:str"
            if not text or key.value in seen:
                fault = f"the key {key.value} is there twice" if text else "a key is not text"
                raise yaml.constructor.ConstructorError(None, None, fault, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", rf"[-+]?{WHOLE_NUMBER}", list("-+0123456789")),
    ("float", rf"[-+]?(?:{WHOLE_NUMBER}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def read_document(path: Path, file: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises
    ------
    LabError
        The file cannot be read, or is no YAML mapping; the line is named.
    """
    try:
        document = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}" if mark else "the file"
        found = f"{where} is wrong ({error.problem or error.context})"
        raise LabError(file, None, found, YAML_RULE, "Check indentation, colons and quotes there.") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        found = f"the file is not YAML text ({one_line(str(error))[:80]})"
        raise LabError(file, None, found, YAML_RULE, "Save it as UTF-8 text.") from None
    except OSError as error:
        found = f"the file cannot be read ({error.strerror})"
        raise LabError(file, None, found, YAML_RULE, "Check the file's rights.") from None
    if not isinstance(document, dict):
        found = "the file is empty" if document is None else "the file holds no mapping"
        raise LabError(file, None, found, YAML_RULE, "Start with a key, such as title: or sales:.")
    return document
