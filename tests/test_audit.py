import json
from pathlib import Path

import pytest

from pricelab_dagster import audit


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of four lines."""
    for number in range(4):
        audit.append(tmp_path, "run", experiment=f"milk-{number}")
    return tmp_path / "audit" / "log.jsonl"


def test_a_log_holds_who_did_what_and_when(log: Path) -> None:
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["experiment"] for entry in entries] == [f"milk-{number}" for number in range(4)]
    assert all(set(entry) == {"at", "user", "action", "experiment", "previous"} for entry in entries)
    assert entries[0]["previous"] == audit.FIRST


def test_an_untouched_chain_verifies(log: Path) -> None:
    assert audit.broken_lines(log.parents[1]) == []


def test_a_lab_without_a_log_has_no_broken_lines(tmp_path: Path) -> None:
    assert audit.broken_lines(tmp_path) == []


def tampered(lines: list[str], how: str) -> list[str]:
    if how == "changed":
        return [lines[0], lines[1].replace("milk-1", "milk-9"), *lines[2:]]
    if how == "removed":
        return [lines[0], *lines[2:]]
    if how == "swapped":
        return [lines[0], lines[2], lines[1], lines[3]]
    if how == "inserted":
        return [lines[0], lines[1], lines[1], *lines[2:]]
    return [lines[0], "no json", *lines[2:]]


@pytest.mark.parametrize(
    ("how", "broken"),
    [("changed", [3]), ("removed", [2]), ("swapped", [2, 3, 4]), ("inserted", [3]), ("overwritten", [2, 3])],
)
def test_tampering_breaks_the_chain_where_it_happened(log: Path, how: str, broken: list[int]) -> None:
    log.write_text("\n".join(tampered(log.read_text().splitlines(), how)) + "\n")
    assert audit.broken_lines(log.parents[1]) == broken


def test_a_change_of_the_last_line_is_found_by_the_next(log: Path) -> None:
    text = log.read_text()
    audit.append(log.parents[1], "run", experiment="milk-4")
    log.write_text(log.read_text().replace(text, text.replace("milk-3", "milk-9")))
    assert audit.broken_lines(log.parents[1]) == [5]


def test_half_a_line_of_a_killed_writer_stays_a_line_of_its_own(log: Path) -> None:
    with log.open("a") as handle:
        handle.write('{"at": "2024-01')
    audit.append(log.parents[1], "run", experiment="milk-4")
    lines = log.read_text().splitlines()
    assert (len(lines), json.loads(lines[-1])["experiment"]) == (6, "milk-4")
    assert audit.broken_lines(log.parents[1]) == [5]


def test_facts_cannot_forge_the_chain(tmp_path: Path) -> None:
    audit.append(tmp_path, "run", previous="forged")
    assert audit.broken_lines(tmp_path) == []


def test_text_in_a_fact_stays_on_its_line(tmp_path: Path) -> None:
    audit.append(tmp_path, "run", reason="first\nsecond\u2028third")
    audit.append(tmp_path, "run")
    assert len((tmp_path / "audit" / "log.jsonl").read_text().splitlines()) == 2
    assert audit.broken_lines(tmp_path) == []
