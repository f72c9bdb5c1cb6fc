"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

FORMATS = click.Choice(["table", "json", "csv"])


def lab_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--lab` to a command."""
    return click.option(
        "--lab",
        "lab_root",
        envvar="PRICELAB_HOME",
        default=".",
        show_default="the current directory",
        show_envvar=True,
        type=click.Path(path_type=Path),
        help="The lab folder.",
    )(function)


def format_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--format` to a command."""
    return click.option(
        "--format", "form", type=FORMATS, default="table", show_default=True, help="How rows are printed."
    )(function)
