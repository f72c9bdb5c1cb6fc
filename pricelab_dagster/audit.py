"""The audit log: the only place with clock times, users and run ids; each line holds the hash of the one before it."""

import fcntl
import getpass
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

FIRST = "0" * 64


def append(lab_root: Path, action: str, **facts: object) -> None:
    """Add one line to `audit/log.jsonl`, chained to the last by its hash."""
    path = lab_root / "audit" / "log.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.seek(0)
        text = handle.read()
        lines = text.splitlines()
        entry = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "user": _user(),
            "action": action,
            **facts,
            "previous": _hash(lines[-1]) if lines else FIRST,
        }
        # a writer that was killed may have left half a line, which must stay a line of its own
        handle.write("\n" * (text != "" and not text.endswith("\n")) + json.dumps(entry) + "\n")


def broken_lines(lab_root: Path) -> list[int]:
    """Return the numbers of the lines, from 1, that do not hold the hash of the line before them."""
    path = lab_root / "audit" / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    expected = [FIRST, *map(_hash, lines)]
    return [number for number, line in enumerate(lines, 1) if _previous(line) != expected[number - 1]]


def _previous(line: str) -> str | None:
    try:
        return json.loads(line)["previous"]
    except (ValueError, KeyError, TypeError):
        return None


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
