"""The tables of README.md that are made from the code; `python -m tests.docs_tables` writes them anew."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click

from pricelab_dagster.cli import main as main_command
from pricelab_dagster.tables import TABLES as LAKE
from pricelab_dagster.triggering import STATUSES

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def asset_lines() -> list[str]:
    """Return the asset table: every asset, whether it is partitioned by experiment, and what one row is."""
    from pricelab_dagster.definitions import defs

    lines = ["| asset | partitioned | one row per |", "|---|---|---|"]
    for spec in sorted(defs().resolve_all_asset_specs(), key=lambda spec: order(spec.key.to_user_string())):
        partitioned = "by experiment" if spec.partitions_def is not None else ""
        lines.append(f"| `{'.'.join(spec.key.path)}` | {partitioned} | {one_row(spec.description or '')} |")
    return lines


def command_lines() -> list[str]:
    """Return the table of commands: each with its arguments and the first sentence of its help."""
    lines = ["| command | does |", "|---|---|"]
    for path, command in _commands(main_command, "pricelab"):
        arguments = " ".join(
            param.metavar or param.name.upper() for param in command.params if param.param_type_name == "argument"
        )
        lines.append(f"| `{f'{path} {arguments}'.strip()}` | {command.get_short_help_str(limit=200)} |")
    return lines


def plan_lines() -> list[str]:
    """Return the columns of the price plan, in their order."""
    lines = ["| column | type | meaning |", "|---|---|---|"]
    words = {"string": "text", "date32[day]": "date", "double": "number"}
    return lines + [
        f"| `{one.name}` | {words[str(one.type)]} | {one.description} |" for one in LAKE["marts.fct_price_plan"].columns
    ]


def status_lines() -> list[str]:
    """Return what can become of an outside event."""
    return ["| status | what it means |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in STATUSES.items())]


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def order(name: str) -> tuple[int, str]:
    """Return where an asset stands: in the order of the flow, then by name."""
    flow = ("staging", "intermediate", "spillover", "experiment", "marts", "warehouse")
    return flow.index(name.split("/")[0]), name


def one_row(description: str) -> str:
    """Return the first sentence without `One row per`; of the warehouse, which has no rows of its own, all of it."""
    first = re.split(r"(?<=[a-z)])\.(?: |$)", " ".join(description.split()))[0]
    return first.removeprefix("One row per ").replace("|", "\\|")


def between(name: str, text: str) -> list[str] | None:
    """Return the lines between `<!-- name -->` and `<!-- /name -->`; None without these markers."""
    found = re.search(rf"<!-- {name} -->\n(.*?)\n?<!-- /{name} -->", text, re.DOTALL)
    return None if found is None else [line for line in found[1].splitlines() if line.strip()]


def dependencies() -> list[str]:
    """Return the names of the packages that pyproject.toml requires, extras excluded."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [re.split(r"[<>=!~\[ ;]", line)[0] for line in project["dependencies"]]


TABLES = {"assets": asset_lines, "commands": command_lines, "statuses": status_lines, "plan": plan_lines}


def main() -> None:
    """Write the tables between their markers in README.md."""
    text = README.read_text()
    for name, make in TABLES.items():
        if between(name, text) is None:
            raise SystemExit(f"README.md has no <!-- {name} --> and <!-- /{name} --> lines. Add them where it goes.")
        table = "\n".join(make())
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = marked.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text)
    README.write_text(text)


if __name__ == "__main__":
    main()
