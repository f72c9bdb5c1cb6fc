import datetime as dt
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pricelab_dagster.lab import Crossover, Lab, LabError, RandomDays, TimeBound, Triggered
from pricelab_dagster.lab.errors import Found

N_MUTATIONS = 120

MINIMAL = """\
title: Milk, five per cent cheaper
owner: dairy-pricing@example.com
design: {kind: crossover, start: 2017-06-05}
scope: {where: "category = 'FLUID MILK' and units_per_day >= 1"}
treatment: {price_multiplier: 0.95}
"""
HERE = Path(__file__).parent
FULL_LAB = HERE / "full_lab"


def test_a_minimal_lab(make_lab: Any) -> None:
    lab = Lab.load(make_lab(experiments={"b.yaml": MINIMAL, "a.yml": MINIMAL}))
    assert lab.root.is_absolute()
    assert (list(lab.experiments), lab.broken) == (["a", "b"], {})
    assert lab.config.model_dump(exclude={"sales"}) == {
        "products": None,
        "prices": None,
        "events": None,
        "substitutes": {"within": "category", "min_units": 1.0, "min_price_sd": 0.01},
        "time_zone": "UTC",
        "schedule": {"cron": "0 5 * * *"},
        "notify": None,
        "engine": {"kind": "duckdb"},
    }
    assert (lab.config.sales.grain, lab.config.sales.where) == ("day", None)


def test_a_lab_without_experiments(make_lab: Any) -> None:
    assert Lab.load(make_lab()).experiments == {}


def test_a_full_lab_with_every_key() -> None:
    lab = Lab.load(FULL_LAB)

    assert lab.broken == {}
    assert list(lab.config.sources()) == ["sales", "products", "prices.incumbent", "events"]
    assert (lab.config.has_cost, lab.config.time_zone, lab.config.engine.kind) == (True, "Europe/Berlin", "spark")
    kinds = {name: type(experiment.design) for name, experiment in lab.experiments.items()}
    assert kinds == {
        "complete": Crossover,
        "imported": TimeBound,
        "random": RandomDays,
        "stopped": TimeBound,
        "triggered": Triggered,
    }
    assert lab.experiments["triggered"].scope.products == ("1001", "0012", "milk")
    assert list(lab.experiments["triggered"].tables()) == ["control.prices", "treatment.prices"]
    assert list(lab.experiments["stopped"].tables()) == ["treatment.2.prices"]
    table = lab.experiments["imported"].tables()["assignment.source"]
    assert table.files(lab.root) == [lab.root / "data" / "assignment.csv"]


def test_defaults_are_those_of_the_complete_example(make_lab: Any) -> None:
    complete_text = (FULL_LAB / "experiments" / "complete.yaml").read_text()
    lab = Lab.load(make_lab(experiments={"milk.yaml": MINIMAL, "other.yaml": complete_text}))
    minimal, complete = lab.experiments["milk"], lab.experiments["other"]
    assert minimal.model_dump(exclude={"id"}) == complete.model_dump(exclude={"id"})
    assert minimal.model_dump(mode="json")["analysis"] == yaml.safe_load(complete_text)["analysis"]


def test_title_is_the_id_by_default(make_lab: Any) -> None:
    text = MINIMAL.replace("title: Milk, five per cent cheaper\n", "")
    assert Lab.load(make_lab(experiments={"milk_1.yaml": text})).experiments["milk_1"].title == "milk_1"


@pytest.mark.parametrize(
    ("grain", "design", "defaults"),
    [
        ("day", "kind: crossover", {"phase": 14, "phases": 2, "blackout": 7}),
        ("week", "kind: crossover", {"phase": 14, "phases": 2, "blackout": 1}),
        ("day", "kind: time_bound, duration: 3", {"blackout": 0}),
        ("day", "kind: random_days, duration: 28", {"blackout": 0, "block": 1, "balance": "day_of_week"}),
        ("day", "kind: random_days, duration: 27", {"balance": "none"}),
        ("day", "kind: random_days, duration: 28, block: 2", {"balance": "none"}),
        ("week", "kind: random_days, duration: 28", {"balance": "none"}),
    ],
)
def test_defaults_of_designs(make_lab: Any, grain: str, design: str, defaults: dict[str, Any]) -> None:
    config = make_lab().joinpath("pricelab.yaml").read_text() + f"  grain: {grain}\n"
    text = MINIMAL.replace("kind: crossover", design)
    lab = Lab.load(make_lab(config, {"milk.yaml": text}))
    assert lab.broken == {}
    assert lab.experiments["milk"].design.model_dump(include=set(defaults)) == defaults


def test_text_that_other_yaml_readers_take_for_numbers_or_booleans(make_lab: Any) -> None:
    text = MINIMAL.replace(
        "where: \"category = 'FLUID MILK' and units_per_day >= 1\"", "products: [0123, 1:30, NO, 12]"
    )
    assert Lab.load(make_lab(experiments={"milk.yaml": text})).experiments["milk"].scope.products == (
        "0123",
        "1:30",
        "NO",
        "12",
    )


def broken(name: str) -> list[Any]:
    cases = yaml.safe_load((HERE / name).read_text())
    return [pytest.param(case["replace"], case["by"], case["error"], id=case["error"][:40]) for case in cases]


@pytest.mark.parametrize(("old", "new", "line"), broken("broken_experiments.yaml"))
def test_a_broken_experiment_stops_alone_with_one_line(make_lab: Any, old: str | None, new: str, line: str) -> None:
    text = new if old is None else MINIMAL.replace(old, new, 1)
    assert text != MINIMAL
    root = make_lab(experiments={"bad.yaml": text, "good.yaml": MINIMAL})
    lab = Lab.load(root)
    assert list(lab.experiments) == ["good"]
    assert {name: str(error) for name, error in lab.broken.items()} == {
        "bad": f"experiments/bad.yaml: {line.replace('{root}', str(root))}"
    }


def test_balance_needs_an_even_share(make_lab: Any) -> None:
    text = MINIMAL.replace("kind: crossover", "kind: random_days, duration: 14") + "assignment: {share: 0.3}\n"
    assert str(Lab.load(make_lab(experiments={"a.yaml": text})).broken["a"]) == (
        "experiments/a.yaml: assignment.share == 0.3, must be 0.5 with design.balance day_of_week. "
        "Give 0.5, or design.balance: none."
    )


def test_balance_needs_days(make_lab: Any) -> None:
    config = make_lab().joinpath("pricelab.yaml").read_text() + "  grain: week\n"
    text = MINIMAL.replace("kind: crossover", "kind: random_days, duration: 14, balance: day_of_week")
    assert str(Lab.load(make_lab(config, {"a.yaml": text})).broken["a"]) == (
        "experiments/a.yaml: design.balance == 'day_of_week', must be none when the grain is week. Give none."
    )


def test_file_names(make_lab: Any) -> None:
    names = ["Milk.yaml", "two.yaml", "two.yml", "ok-1.yml", ".hidden.yaml", "notes.txt"]
    lab = Lab.load(make_lab(experiments=dict.fromkeys(names, MINIMAL)))
    assert list(lab.experiments) == ["ok-1"]
    assert {name: str(error) for name, error in lab.broken.items()} == {
        "Milk": "experiments/Milk.yaml: the file name Milk is not an experiment id, must be named with a-z, 0-9, _ and "
        "-, starting with a letter or digit. Rename the file.",
        "two": "experiments/two.yaml: two.yml has the same id two, must be the only file of its id. "
        "Remove or rename one of the two.",
    }


@pytest.mark.parametrize(("old", "new", "line"), broken("broken_configs.yaml"))
def test_a_broken_config_stops_all_with_one_line(make_lab: Any, old: str, new: str, line: str) -> None:
    config = make_lab().joinpath("pricelab.yaml").read_text()
    assert old in config
    root = make_lab(config.replace(old, new, 1))
    with pytest.raises(LabError) as caught:
        Lab.load(root)
    assert str(caught.value) == f"pricelab.yaml: {line.replace('{root}', str(root))}"


def test_no_lab_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(LabError) as caught:
        Lab.load(tmp_path)
    assert str(caught.value) == (
        f"pricelab.yaml: not found in {tmp_path}, must be in the lab folder. "
        "Make a lab with `pricelab new DIR`, or name one by --lab DIR or PRICELAB_HOME."
    )
    with pytest.raises(LabError, match=r"gone is no folder, must be in the lab folder\. Make a lab"):
        Lab.load(tmp_path / "gone")


def test_the_other_suffix_is_noticed(make_lab: Any) -> None:
    root = make_lab()
    (root / "pricelab.yaml").rename(root / "pricelab.yml")
    with pytest.raises(LabError, match=r"Rename pricelab\.yml to pricelab\.yaml\."):
        Lab.load(root)


def test_a_file_that_is_no_text(make_lab: Any) -> None:
    root = make_lab()
    (root / "pricelab.yaml").write_bytes(b"sales: \xff\xfe")
    with pytest.raises(LabError, match=r"^pricelab\.yaml: the file is not YAML text .*Save it as UTF-8 text\.$"):
        Lab.load(root)


def test_errors_survive_another_process_and_keep_their_parts() -> None:
    error = LabError("a.yaml", "design.stop", dt.date(2017, 1, 2), "later", "Wait.")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.key, copy.found) == (str(error), "design.stop", dt.date(2017, 1, 2))
    assert str(LabError("a.yaml", "x", "line\none\u2028two\x85\x1b[31m", "b", "C.")) == (
        "a.yaml: x == 'line one two [31m', must be b. C."
    )
    assert str(LabError("a.yaml", "x", Found.MISSING, "b", "C.")) == "a.yaml: x is missing, must be b. C."
    assert len(str(LabError("a.yaml", "x", ["long"] * 10_000, "b", "C."))) < 120


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for key, child in items for leaf in leaves(child, (*path, key)))]


def mutated(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = mutated(document[path[0]], path[1:], value)
    return copy


GARBAGE: list[Any] = [
    *(None, True, 0, -1, 10**30, 1e308, float("nan"), float("inf"), "", " ", "two\nlines", "\0", "\u2028", "x" * 5000),
    *("../..", "/", "~", "**", "[", "'", '"', ";", "--", "select 1", "2017-01-01", "9999-12-31", "0000-00-00", "%s{0}"),
    *([], [None], [[]], {}, {"a": 1}, {"kind": "crossover"}, {"two\nlines": 1}, [{"name": "a"}], dt.date(2017, 1, 1)),
]


@pytest.mark.filterwarnings("error")
def test_whatever_stands_in_a_file_is_read_or_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(3)
    root = tmp_path / "lab"
    shutil.copytree(FULL_LAB, root, ignore=shutil.ignore_patterns("experiments"))
    (root / "experiments").mkdir()
    originals = [FULL_LAB / "pricelab.yaml", *sorted((FULL_LAB / "experiments").iterdir())]
    lines: list[str] = []
    for _ in range(N_MUTATIONS):
        original = originals[rng.integers(len(originals))]
        document = yaml.safe_load(original.read_text())
        paths = leaves(document)
        wrong = mutated(document, paths[rng.integers(len(paths))], GARBAGE[rng.integers(len(GARBAGE))])
        target = root / original.relative_to(FULL_LAB)
        target.write_text(yaml.safe_dump(wrong))
        try:
            lines += map(str, Lab.load(root).broken.values())
        except LabError as error:
            lines.append(str(error))
        target.write_text(original.read_text())
    assert len(lines) > N_MUTATIONS / 2
    assert not [line for line in lines if line.splitlines() != [line] or "Traceback" in line or "pydantic" in line]
    assert capfd.readouterr() == ("", "")
