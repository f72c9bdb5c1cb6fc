"""Paths and globs of a lab file, against the lab folder."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from pricelab_dagster.lab.errors import Rule

READERS = {
    ".parquet": "read_parquet",
    ".csv": "read_csv",
    ".csv.gz": "read_csv",
    ".json": "read_json",
    ".jsonl": "read_json",
    ".ndjson": "read_json",
}


def absolute_pattern(root: Path, pattern: str) -> str:
    """`pattern` as an absolute path or glob; a relative one starts at `root`, whatever the working directory is.

    Examples
    --------
    >>> absolute_pattern(Path("/lab"), "../data/*.csv")
    '/data/*.csv'
    """
    return os.path.normpath(str(Path(glob.escape(str(root))) / pattern))


def match_files(root: Path, patterns: tuple[str, ...], *, may_be_empty: bool = False) -> list[Path]:
    """The files that the paths and globs name, absolute, each once, sorted.

    Raises
    ------
    Rule
        A pattern matches no file; with `may_be_empty` a glob may, and only a plain path may not.
    """
    files: set[Path] = set()
    for pattern in patterns:
        looked_for = absolute_pattern(root, pattern)
        literal = os.path.normpath(str(root / pattern))
        # Path.glob takes neither an absolute pattern nor "..", and a file may have brackets in its name.
        found = [literal] if os.path.lexists(literal) else glob.glob(looked_for, recursive=True)  # noqa: PTH207
        matched = {Path(path) for path in found if Path(path).is_file()}
        if not matched and not (may_be_empty and glob.has_magic(pattern)):
            what = "only a folder" if found else "nothing"
            raise Rule(
                "a path or glob of existing files",
                f"Looked for {looked_for} and found {what}; name a file or a glob such as folder/*.parquet.",
                found=pattern,
            )
        files |= matched
    return sorted(files)


def reader(files: Sequence[str | Path]) -> str:
    """The table function that reads `files`, by their suffix.

    Raises
    ------
    Rule
        A suffix that is not read, or files of more than one format.

    Examples
    --------
    >>> reader(["sales.CSV.gz"])
    'read_csv'
    """
    functions: dict[str, Path] = {}
    for file in map(Path, files):
        name = file.name.lower()
        suffix = next((suffix for suffix in READERS if name.endswith(suffix)), None)
        if suffix is None:
            raise Rule(f"files ending in {', '.join(READERS)}", "Convert or rename it.", found=file.name)
        functions.setdefault(READERS[suffix], file)
    if len(functions) > 1:
        names = " and ".join(file.name for file in functions.values())
        raise Rule("files of one format", "Narrow the path, or combine the formats under `query:`.", found=names)
    return next(iter(functions))
