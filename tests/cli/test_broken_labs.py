"""Labs with one fault each: one line names file, key and remedy, the exit code is 2, and nothing is written."""

import re

import pytest

from tests.cli.command import DONE, NOT_DONE, WRONG_INPUT, pricelab, refusals
from tests.defs import tiny_lab
from tests.defs.tiny_lab import CONFIG, EXPERIMENTS

CUT = EXPERIMENTS["cut"]
EXPERIMENT = "experiments/cut.yaml"
PRODUCTS = "source: data/products.csv"
CONFIGS = {
    "missing column": ("units: units", "units: quantity", "pricelab.yaml: sales.columns.units == 'quantity'"),
    "column of another type": ("date: day", "date: sku", "pricelab.yaml: sales.columns.date == 'sku'"),
    "bad expression": ("units: units", "units: units +", "pricelab.yaml: sales.columns.units == 'units +'"),
    "missing file": ("data/sales.csv", "data/sold.csv", "pricelab.yaml: sales.source == 'data/sold.csv'"),
    "bad yaml": ("products:", "products: [", "pricelab.yaml: line "),
    "unknown key": ("time_zone:", "timezone:", "pricelab.yaml: timezone is unknown"),
    "unknown zone": ("Europe/Berlin", "Europe/Paderborn", "pricelab.yaml: time_zone == 'Europe/Paderborn'"),
    "bad cron": ("30 4 * * 1", "daily", "pricelab.yaml: schedule.cron == 'daily'"),
    "unknown attribute": ("[size, brand]", "[size, colour]", "pricelab.yaml: products.attributes"),
    "attribute that is a list": (
        PRODUCTS,
        "query: select *, [size] as tags from 'data/products.csv'",
        "pricelab.yaml: products.attributes == 'tags', must be columns of numbers, booleans, text or dates, and this "
        "one is list<",
    ),
    "attribute that is infinite": (
        PRODUCTS,
        "query: select *, case when size = 5 then 'infinity'::double end as tags from 'data/products.csv'",
        "pricelab.yaml: products.attributes == 'tags', must be finite or empty, and ",
    ),
    "query that writes": (
        "source: data/sales.csv",
        "query: copy (select 1) to 'x.csv'",
        "pricelab.yaml: sales.query",
    ),
}
FILES = {
    "wrong date": ("2024-04-01", "2024-02-31", f"{EXPERIMENT}: design.start == '2024-02-31'"),
    "start before the history": ("2024-04-01", "2023-04-01", f"{EXPERIMENT}: design.start == 2023-04-01"),
    "unknown key": ("duration: 14", "duration: 14, phaze: 7", f"{EXPERIMENT}: design.phaze is unknown"),
    "bad yaml": ("metrics:", "metrics", f"{EXPERIMENT}: line "),
    "blackout as long as the experiment": (
        "duration: 14",
        "duration: 14, blackout: 14",
        f"{EXPERIMENT}: design.blackout",
    ),
    "bad share": ("title:", "assignment: {share: 1.2}\ntitle:", f"{EXPERIMENT}: assignment.share == 1.2"),
    "scope over an unknown column": ("brand = 'own'", "colour = 'red'", f"{EXPERIMENT}: scope.where == "),
    "scope that does not parse": ("brand = 'own'", "brand =", f"{EXPERIMENT}: scope.where == "),
    "scope over sums": ("brand = 'own'", "count(*) > 1", f"{EXPERIMENT}: scope.where == "),
    "missing prices": (
        "treatment: {price_multiplier: 0.8}",
        "treatment: {prices: data/nowhere.csv}",
        f"{EXPERIMENT}: treatment.prices == 'data/nowhere.csv'",
    ),
    "missing assignment": (
        "title:",
        "assignment: {source: data/nowhere.csv}\ntitle:",
        f"{EXPERIMENT}: assignment.source == 'data/nowhere.csv'",
    ),
    "design of a later version": (
        "kind: time_bound, start: 2024-04-01, duration: 14",
        "kind: triggered, start: 2024-04-01, duration: 14, horizon: 2024-05-01, event: mailer",
        f"{EXPERIMENT}: design.event == 'mailer'",
    ),
}


@pytest.fixture(scope="module")
def small_world():
    return tiny_lab.world(n_products=32, n_days=100)


def refused(root, command):
    before = tiny_lab.tree(root)
    result = pricelab(command, lab=root)
    assert result.exit_code == WRONG_INPUT, result.stderr
    assert tiny_lab.tree(root) == before
    assert not (root / ".dagster").exists()
    return result


def one_refusal(result, start):
    (line,) = refusals(result)
    assert line.startswith(f"pricelab: {start}"), line
    assert ", must be " in line
    return line


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(("old", "new", "start"), CONFIGS.values(), ids=CONFIGS)
def test_broken_config_stops_everything(tmp_path, small_world, command, old, new, start):
    assert old in CONFIG
    config = CONFIG.replace(old, new, 1)
    if "tags" in new:
        config = config.replace("[size, brand]", "[size, brand, tags]")
    root = tiny_lab.write_lab(tmp_path / "lab", {"cut": CUT}, config=config, one=small_world)
    result = refused(root, command)
    one_refusal(result, start)
    assert result.stdout == ""
    if command == "run":
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(("old", "new", "start"), FILES.values(), ids=FILES)
def test_broken_experiment_is_one_line(tmp_path, small_world, command, old, new, start):
    assert old in CUT
    root = tiny_lab.write_lab(tmp_path / "lab", {"cut": CUT.replace(old, new, 1)}, one=small_world)
    result = refused(root, command)
    one_refusal(result, start)
    if command == "run":
        assert len(result.stderr.splitlines()) == 1
    else:
        assert result.stderr.splitlines()[-1] == "0 of 1 experiments can run."


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("Cut", "experiments/Cut.yaml: the file name Cut is not an experiment id"),
        ("two words", "experiments/two words.yaml: the file name two words is not an experiment id"),
    ],
)
def test_bad_file_name(tmp_path, small_world, name, start):
    root = tiny_lab.write_lab(tmp_path / "lab", {name: CUT}, one=small_world)
    for command in ("check", "run"):
        assert "Rename the file." in one_refusal(refused(root, command), start)


def test_units_that_are_no_number_in_one_row(tmp_path, small_world):
    root = tiny_lab.write_lab(tmp_path / "lab", {"cut": CUT}, one=small_world)
    path = root / "data" / "sales.csv"
    lines = path.read_text().splitlines()
    cells = lines[5].split(",")
    lines[5] = ",".join(["many" if at == lines[0].split(",").index("units") else cell for at, cell in enumerate(cells)])
    path.write_text("\n".join(lines))
    for command in ("check", "run"):
        line = one_refusal(refused(root, command), "pricelab.yaml: sales.columns.units == 'units'")
        assert "Could not convert string 'many' to DOUBLE" in line


def test_broken_experiment_holds_back_no_other(tmp_path, small_world):
    files = {"bad": "design: {kind: crossover}\n", "good": EXPERIMENTS["later"]}
    root = tiny_lab.write_lab(tmp_path / "lab", files, one=small_world)
    result = pricelab("check", lab=root)
    assert result.exit_code == WRONG_INPUT
    one_refusal(result, "experiments/bad.yaml: design.start is missing")
    assert result.stderr.splitlines()[-1] == "1 of 2 experiments can run."
    assert not (root / "lake").exists()


@pytest.mark.parametrize(
    ("share", "exit_code", "start"),
    [
        (
            0.2,
            WRONG_INPUT,
            "assignment.share == 0.2, must be such that 2 or more of the 8 units are treated",
        ),
        (0.3, DONE, "of 8 products 2.4 are expected in the smallest arm; with less than 3 an effect has no standard"),
        (0.5, DONE, None),
    ],
)
def test_check_tells_of_an_arm_that_will_be_too_small(tmp_path, small_world, share, exit_code, start):
    text = CUT.replace("title:", f"assignment: {{share: {share}}}\ntitle:")
    result = pricelab("check", lab=tiny_lab.write_lab(tmp_path / "lab", {"cut": text}, one=small_world))
    assert result.exit_code == exit_code
    told = [line for line in result.stderr.splitlines() if f"{EXPERIMENT}: " in line]
    assert len(told) == (start is not None)
    assert all(f"{EXPERIMENT}: {start}" in line for line in told)


def test_no_lab(tmp_path):
    for command in ("check", "run", "effects", "elasticities", "diagnostics"):
        (line,) = refusals(refused(tmp_path, command))
        assert line.startswith("pricelab: pricelab.yaml: not found in ")


def test_nothing_has_run_yet(tmp_path, small_world):
    root = tiny_lab.write_lab(tmp_path / "lab", {"cut": CUT}, one=small_world)
    for words in (("effects",), ("effects", "cut"), ("diagnostics",), ("plan", "cut"), ("sql", "select 1")):
        result = pricelab(*words, lab=root)
        assert result.exit_code == NOT_DONE, words
        assert len(result.stderr.splitlines()) == 1
        assert "pricelab run" in result.stderr
        assert result.stdout == ""


@pytest.mark.parametrize(
    ("scope", "start"),
    [
        ("{where: \"category = 'none'\"}", "experiments/bad.yaml: scope.where == 'category = 'none''"),
        ("{products: [none-of-these]}", "experiments/bad.yaml: scope.products == "),
        ("{products: ['0000']}", "experiments/bad.yaml: scope == '1 products'"),
    ],
)
def test_check_refuses_a_scope_that_cannot_be_drawn_from(tmp_path, small_world, scope, start):
    text = re.sub(r"scope:.*", lambda found: f"scope: {scope}", EXPERIMENTS["later"])
    root = tiny_lab.write_lab(tmp_path / "lab", {"bad": text}, one=small_world)
    one_refusal(refused(root, "check"), start)
