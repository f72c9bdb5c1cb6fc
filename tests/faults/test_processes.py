import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CROWD = Path(__file__).with_name("crowd.py")
TIMEOUT = 120  # seconds, far above the ten that the scenes take
MIN_READS = 6  # of each reader while others write


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the scenes of `crowd.py` saw, each in its own folder."""
    command = [sys.executable, str(CROWD), str(tmp_path_factory.mktemp("crowd"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def scene(report: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = report[name]
    assert "error" not in found, found.get("error")
    return found


def test_four_writers_lose_no_write_and_fail_no_reader(report: dict[str, Any]) -> None:
    found = scene(report, "writers_and_readers")
    assert found["wrote"] == [0, 0, 0, 0]
    assert found["examples"] == []
    assert found["failed_reads"] == 0
    assert min(found["reads"]) >= MIN_READS
    assert (found["partitions"], found["whole"], found["left"]) == (54, True, [])
    assert found["own"] == [["w0"], ["w1"], ["w2"], ["w3"]]


def test_a_writer_that_is_killed_in_the_middle_leaves_the_old_file(report: dict[str, Any]) -> None:
    found = scene(report, "killed_in_the_middle")
    assert (found["after"], found["parquet"]) == (["old"], ["milk.parquet"])


def test_sweep_waits_for_the_writer_and_removes_its_orphan(report: dict[str, Any]) -> None:
    found = scene(report, "killed_in_the_middle")
    assert found["swept_while_writing"] == 0
    assert (found["swept"], found["left"]) == ([".milk.parquet.writing"], ["milk.parquet"])
    assert found["rewritten"] == ["newer"]


def test_a_writer_that_is_killed_at_any_moment_leaves_a_whole_file(report: dict[str, Any]) -> None:
    found = scene(report, "killed_at_any_moment")
    assert found["seen"] == [[20_000, 1]] * 6
    assert found["left"] == ["milk.parquet"]


def test_swaps_of_the_warehouse_fail_no_reader(report: dict[str, Any]) -> None:
    found = scene(report, "swaps_and_readers")
    assert found["examples"] == []
    assert found["failed_reads"] == 0
    assert min(found["reads"]) >= MIN_READS
    (n_swaps,) = found["wrote"]
    assert n_swaps >= 10
    assert found["arm"] == [{"arm": f"swap{n_swaps - 1}"}]
    assert found["left"] == ["lake", "warehouse.duckdb"]


def test_a_build_of_the_warehouse_that_is_killed_leaves_the_old_one(report: dict[str, Any]) -> None:
    found = scene(report, "killed_while_building")
    assert (found["during"], found["after"], found["rebuilt"]) == (["old"], ["old"], ["newer"])
    assert found["left"] == ["lake", "warehouse.duckdb"]


def test_two_processes_that_append_keep_the_chain(report: dict[str, Any]) -> None:
    found = scene(report, "appenders")
    assert found["broken"] == []
    assert found["numbers"] == {"one": list(range(200)), "other": list(range(200))}
