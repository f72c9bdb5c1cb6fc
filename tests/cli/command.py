"""The command as a user calls it."""

from pathlib import Path

from click.testing import CliRunner, Result

from pricelab_dagster.cli import main

DONE, NOT_DONE, WRONG_INPUT = 0, 1, 2


def pricelab(*arguments: str | Path, lab: Path | None = None) -> Result:
    """Run the command in this process and fail on a traceback; `lab` is given as `--lab`."""
    words = [*map(str, arguments)]
    if lab is not None:
        words[1:1] = ["--lab", str(lab)]
    result = CliRunner().invoke(main, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    return result


def refusals(result: Result) -> list[str]:
    """Return the lines on stderr that say what is wrong."""
    return [line for line in result.stderr.splitlines() if line.startswith("pricelab: ")]
