"""The documentation says what the code does."""

import importlib
import inspect
import pkgutil
import re
import shlex

import click
import pytest

from pricelab_dagster import science
from pricelab_dagster.cli import main
from tests import docs_tables

README = docs_tables.README.read_text()
METHODS = docs_tables.ROOT / "pricelab_dagster" / "science" / "METHODS.md"
PARTS = ("Estimand", "Equation", "Source", "Assumptions", "Edge cases", "Tests")
MAKEFILE = (docs_tables.ROOT / "Makefile").read_text()


def shown_commands(text: str) -> list[list[str]]:
    """Return the words of each `pricelab` or `make` line in console and sh blocks; continued lines are joined."""
    found = []
    for block in re.findall(r"^```(?:console|sh)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            words = words[1:] if words and "=" in words[0] else words
            if words and words[0].rpartition("/")[2] in ("pricelab", "make"):
                found.append(words)
    return found


def wrong_words(words: list[str]) -> list[str]:
    """Return what a shown command names and the project does not have."""
    name, *rest = words
    if name.endswith("make"):
        targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
        return [word for word in rest if "=" not in word and not word.startswith("-") and word not in targets]
    command: click.Command = main
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return rest[:1]
        command, rest = command.commands[rest[0]], rest[1:]
    options = {"--help", "-h", "--version"} | {one for parameter in command.params for one in parameter.opts}
    return [word for word in rest if word.startswith("-") and word.split("=")[0] not in options]


def science_functions() -> set[str]:
    """Return module.function of every public function that a public module of science defines."""
    found = set()
    for module in pkgutil.iter_modules(science.__path__):
        if module.name.startswith("_"):
            continue
        loaded = importlib.import_module(f"{science.__name__}.{module.name}")
        for name, one in vars(loaded).items():
            if inspect.isfunction(one) and not name.startswith("_") and one.__module__ == loaded.__name__:
                found.add(f"{module.name}.{name}")
    return found


def test_every_command_of_the_readme_exists():
    shown = shown_commands(README)
    assert shown, "README.md shows no command in a console or sh block"
    assert {" ".join(words): wrong for words in shown if (wrong := wrong_words(words))} == {}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("pricelab run --lab my_lab --force milk", []),
        ("$ .venv/bin/pricelab study demo --seeds 10", []),
        ("PRICELAB_HOME=lab pricelab check", []),
        ("make test LAB=x", []),
        ("pricelab fly", ["fly"]),
        ("pricelab run --fast", ["--fast"]),
        ("make coffee", ["coffee"]),
    ],
)
def test_wrong_commands_are_found(line, wrong):
    (words,) = shown_commands(f"```console\n{line}\n```\n")
    assert wrong_words(words) == wrong


@pytest.mark.parametrize("name", list(docs_tables.TABLES))
def test_tables_of_the_readme_are_what_the_code_says(name):
    found = docs_tables.between(name, README)
    assert found is not None, f"README.md needs <!-- {name} --> and <!-- /{name} --> lines around its table"
    assert found == docs_tables.TABLES[name](), "Run `python -m tests.docs_tables`."


def test_every_dependency_is_named_in_the_readme():
    found = docs_tables.between("dependencies", README)
    assert found is not None, "README.md needs <!-- dependencies --> and <!-- /dependencies --> lines around its table"
    named = {name for line in found for name in re.findall(r"[A-Za-z][A-Za-z0-9_-]*", line)}
    assert [name for name in docs_tables.dependencies() if name not in named] == []


def registered() -> list[str]:
    return re.findall(r"^## (\S+)$", METHODS.read_text(), re.MULTILINE)


def exists(dotted: str) -> bool:
    """Return whether a public name of a science module, or a public method of one of its classes, is there."""
    module, *names = dotted.split(".")
    try:
        found = importlib.import_module(f"{science.__name__}.{module}")
        for name in names:
            found = getattr(found, name)
    except (ImportError, AttributeError):
        return False
    return bool(names) and not any(name.startswith("_") for name in (module, *names))


def test_methods_registry_names_every_public_function():
    assert sorted(science_functions() - set(registered())) == []


def test_methods_registry_names_nothing_that_is_not_there():
    headings = registered()
    assert [name for name in headings if not exists(name)] == []
    assert sorted(set(headings)) == sorted(headings), "a heading stands twice"


def incomplete(text: str) -> dict[str, list[str]]:
    """Return by function what its entry does not say; classes may point to the function that makes them."""
    found = {}
    for entry in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        name, _, body = entry.partition("\n")
        lacking = [word for word in PARTS if f"{word}:" not in body]
        if lacking and not name.rpartition(".")[2][:1].isupper():
            found[name] = lacking
    return found


def test_every_entry_says_all_that_the_form_asks_for():
    assert incomplete(METHODS.read_text()) == {}


def test_an_entry_that_lacks_a_part_is_found():
    whole = "".join(f"{part}: x.\n" for part in PARTS)
    text = f"## a.whole\n\n{whole}\n## a.short\n\n{whole.replace('Source: x.', '')}\n## a.Class\n\nEstimand: none.\n"
    assert incomplete(text) == {"a.short": ["Source"]}


def test_existence_is_judged():
    assert exists("hpte.estimate")
    assert exists("market.Market.truth")
    assert not exists("hpte.no_such_function")
    assert not exists("no_such_module.estimate")
    assert not exists("hpte")


def test_science_functions_are_found():
    assert {"hpte.estimate", "detrend.forecast", "clusters.partition"} <= science_functions()
    assert not any(name.startswith("_") for name in science_functions())
