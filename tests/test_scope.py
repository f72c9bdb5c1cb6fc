from collections import Counter
from collections.abc import Callable
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pricelab_dagster import scope, validate
from pricelab_dagster.lab import Experiment, LabError
from pricelab_dagster.models import models
from pricelab_dagster.science import bootstrap
from pricelab_dagster.workbench import FEATURES, Workbench
from tests.defs import tiny_lab

Make = Callable[..., Experiment]

PRODUCTS = [f"p{number:02d}" for number in range(20)]
CLUSTERS = {product: f"c{number // 3}" for number, product in enumerate(PRODUCTS)}  # six of three and one of two
N_SEEDS = 4000
SIGMAS = 4.5  # the largest of 20 sound frequencies leaves this band once in 7,000 trials


@pytest.fixture
def sampled(make_experiment: Make) -> Callable[..., scope.Sample]:
    def draw(covered: list[str] = PRODUCTS, clusters: dict[str, str] = CLUSTERS, **sample: Any) -> scope.Sample:
        experiment = make_experiment(scope={"where": "true", "sample": sample})
        return scope.sample(experiment, covered, clusters)

    return draw


def test_without_a_sample_every_product_is_in(sampled: Callable) -> None:
    found = sampled()
    assert (found.products, found.inclusion_probability) == (PRODUCTS, 1.0)
    assert sampled(share=1.0, unit="cluster", clusters={}) == found


@pytest.mark.parametrize(("share", "size"), [(0.3, 6), (0.5, 10), (0.33, 7), (0.02, 1), (0.99, 20)])
def test_the_inclusion_probability_is_that_of_the_products_drawn(sampled: Callable, share: float, size: int) -> None:
    found = sampled(share=share)
    assert len(found.products) == size
    assert found.inclusion_probability == size / 20
    assert found.products == sorted(set(found.products))
    assert set(found.products) <= set(PRODUCTS)


def test_clusters_are_drawn_whole(sampled: Callable) -> None:
    for seed in range(20):
        found = sampled(share=0.4, unit="cluster", seed=seed)
        drawn = {CLUSTERS[product] for product in found.products}
        assert len(drawn) == 3  # 0.4 of seven clusters
        assert found.inclusion_probability == 3 / 7
        assert found.products == [product for product in PRODUCTS if CLUSTERS[product] in drawn]


def test_every_product_is_drawn_with_the_stated_probability(sampled: Callable) -> None:
    counted: Counter[str] = Counter()
    for seed in range(N_SEEDS):
        found = sampled(share=0.4, unit="cluster", seed=seed)
        counted.update(found.products)
    p = 3 / 7
    band = SIGMAS * (N_SEEDS * p * (1 - p)) ** 0.5
    assert set(counted) == set(PRODUCTS)
    assert max(abs(n - N_SEEDS * p) for n in counted.values()) <= band


def test_every_set_of_products_is_as_likely(sampled: Callable) -> None:
    """Brute force: two of five."""
    n_seeds = 2000
    five = PRODUCTS[:5]
    counted = Counter(tuple(sampled(five, share=0.4, seed=seed).products) for seed in range(n_seeds))
    assert set(counted) == set(combinations(five, 2))
    p = 1 / comb(5, 2)
    band = SIGMAS * (n_seeds * p * (1 - p)) ** 0.5
    assert max(abs(n - n_seeds * p) for n in counted.values()) <= band


@pytest.mark.parametrize("unit", ["product", "cluster"])
def test_the_order_of_products_and_clusters_does_not_change_the_draw(sampled: Callable, unit: str) -> None:
    back = dict(reversed(CLUSTERS.items()))
    assert list(back) != list(CLUSTERS)
    assert sampled(PRODUCTS[::-1], back, share=0.5, unit=unit) == sampled(share=0.5, unit=unit)


@pytest.mark.parametrize("unit", ["product", "cluster"])
def test_the_same_seed_draws_the_same_and_another_seed_or_experiment_another(
    sampled: Callable, make_experiment: Make, unit: str
) -> None:
    found = sampled(share=0.5, unit=unit, seed=3)
    assert sampled(share=0.5, unit=unit, seed=3) == found
    assert sampled(share=0.5, unit=unit, seed=4) != found
    other = make_experiment(id="tea", scope={"where": "true", "sample": {"share": 0.5, "unit": unit, "seed": 3}})
    assert scope.sample(other, PRODUCTS, CLUSTERS) != found


def test_the_seed_of_the_assignment_does_not_change_the_sample(sampled: Callable, make_experiment: Make) -> None:
    wanted = {"where": "true", "sample": {"share": 0.5}}
    draws = [
        scope.sample(make_experiment(scope=wanted, assignment={"seed": seed}), PRODUCTS, {}).products for seed in (1, 2)
    ]
    assert draws[0] == draws[1]


def of_lab(root: Path, wanted: str) -> tuple[Workbench, Experiment, pa.Table]:
    """A lab of 16 products in memory, with one experiment from the fifteenth day on."""
    text = f"design: {{kind: time_bound, start: 2024-01-15, duration: 5}}\nscope: {wanted}\n"
    one = tiny_lab.world(n_products=16, n_days=20)
    one = tiny_lab.World(one.sales[one.sales["sku"] != "0015"], one.products)
    root = tiny_lab.write_lab(root / "lab", {"one": text + "treatment: {price_multiplier: 0.9}\n"}, one=one)
    bench = Workbench.open(root)
    for name in ("staging.stg_sales", "staging.stg_products", "intermediate.int_product_days"):
        bench = bench.with_table(name, bench.run_model(models()[name]))
    experiment = bench.experiment("one")
    return bench, experiment, bench.run_model(models()[FEATURES], experiment)


def test_a_condition_covers_the_products_for_which_it_holds(tmp_path: Path) -> None:
    bench, experiment, features = of_lab(tmp_path, "{where: \"category = 'milk' or category = 'tea'\"}")
    expected = [f"{number:04d}" for number in range(15) if number % 4 >= 2]  # product 15 never sold
    assert scope.products(bench, experiment, features) == expected


def test_a_condition_that_is_unknown_for_a_product_leaves_it_out(tmp_path: Path) -> None:
    bench, experiment, features = of_lab(tmp_path, "{where: \"nullif(category, 'tea') = 'milk'\"}")
    assert scope.products(bench, experiment, features) == ["0002", "0006", "0010", "0014"]


def test_a_list_covers_its_products_sorted(tmp_path: Path) -> None:
    bench, experiment, features = of_lab(tmp_path, "{products: ['0003', '0001', '0002', '0000']}")
    assert scope.products(bench, experiment, features) == ["0000", "0001", "0002", "0003"]


def test_a_list_with_products_without_history_is_refused_with_examples(tmp_path: Path) -> None:
    bench, experiment, features = of_lab(tmp_path, "{products: ['0001', '0015', 'nowhere']}")
    with pytest.raises(LabError) as failure:
        scope.products(bench, experiment, features)
    assert str(failure.value) == (
        'experiments/one.yaml: scope.products == ["0015", "nowhere"], must be products with sales before 2024-01-15. '
        "Remove the 2 without history, or start later."
    )


def test_a_condition_that_no_product_meets_is_refused(tmp_path: Path) -> None:
    bench, experiment, features = of_lab(tmp_path, "{where: units_per_day > 1e9}")
    with pytest.raises(LabError, match=r"scope\.where == 'units_per_day > 1e9', must be true for at least one product"):
        scope.products(bench, experiment, features)


@pytest.mark.parametrize(
    ("kind", "share", "n_arms", "expected"),
    [
        ("time_bound", 0.5, 1, 20.0),
        ("time_bound", 0.1, 1, 4.0),
        ("time_bound", 0.9, 1, 4.0),
        ("time_bound", 0.75, 3, 10.0),
        ("time_bound", 0.6, 3, 8.0),
        ("crossover", 0.25, 2, 5.0),
        ("random_days", 0.1, 1, 40.0),
    ],
)
def test_the_smallest_arm_that_is_to_be_expected(
    make_experiment: Make, kind: str, share: float, n_arms: int, expected: float
) -> None:
    arms = [{"name": f"arm-{number}", "price_multiplier": 0.9 - number / 100} for number in range(n_arms)]
    design = {"balance": "none"} if kind == "random_days" else {}
    experiment = make_experiment(kind, design=design, treatment=arms, assignment={"share": share})
    assert scope.units_of_smallest_arm(experiment, 40) == pytest.approx(expected)


def test_what_an_arm_needs_is_what_its_standard_error_needs() -> None:
    assert validate.MIN_PER_ARM == bootstrap.MIN_UNITS_PER_ARM
