import subprocess
import sys

import click
import pytest

from pricelab_dagster.cli import main
from tests.cli.command import DONE, WRONG_INPUT, pricelab

NEEDED = {"demo", "new", "check", "run", "effects", "elasticities", "diagnostics", "plan", "sql", "study"}


def commands(group=main, path=()):
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands())


def test_commands_of_the_design_are_there():
    assert set(main.commands) >= NEEDED


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_is_complete(path):
    shown = pricelab(*path, "--help")
    assert shown.exit_code == DONE
    command = ALL[path]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert parameter.opts[0] in shown.stdout
        else:
            assert parameter.make_metavar(click.Context(command)) in shown.stdout.splitlines()[0]


@pytest.mark.parametrize("path", [path for path, one in ALL.items() if not isinstance(one, click.Group)], ids=" ".join)
def test_lab_is_named_alike_everywhere(path):
    if path[0] in ("new", "study"):
        return
    assert "--lab" in {option for parameter in ALL[path].params for option in parameter.opts}


@pytest.mark.parametrize(
    "words", [("no-such-command",), ("run", "--no-such-option"), ("plan",), ("effects", "--format", "xml")]
)
def test_wrong_use_exits_2(words):
    assert pricelab(*words).exit_code == WRONG_INPUT


def test_the_installed_command_exits_with_its_code(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "from pricelab_dagster.cli import main; main()", "effects", "--lab", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == WRONG_INPUT
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("pricelab: pricelab.yaml: not found in ")
    assert "pricelab new DIR" in line
