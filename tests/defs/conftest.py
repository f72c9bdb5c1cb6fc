import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.defs import tiny_lab


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab whose experiments were planned, followed by the shops and run; read only: take `copied` to change it."""
    return tiny_lab.played_once(tiny_lab.shared_base(tmp_path_factory.getbasetemp()))


@pytest.fixture
def copied(played: Path, tmp_path: Path) -> Path:
    """A copy of the played lab that a test may change."""
    return Path(shutil.copytree(played, tmp_path / "lab"))


@pytest.fixture
def runner() -> Iterator[Callable]:
    """Opens a runner on a lab's own instance, and closes it after the test."""
    from pricelab_dagster.runner import Runner

    opened = []

    def run(root: Path) -> Runner:
        opened.append(Runner(root, lambda step: None))
        return opened[-1]

    yield run
    for one in opened:
        one.close()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What opening an instance changes in the process is undone."""
    for name in ("PRICELAB_HOME", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    log = logging.getLogger("dagster._core.execution.plan.active")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture(scope="session")
def definitions():
    """The code location as it loads without a lab."""
    from pricelab_dagster.definitions import defs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return defs()
