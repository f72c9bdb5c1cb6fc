from itertools import combinations

import networkx as nx
import numpy as np
import pytest

from pricelab_dagster.science.clusters import modularity, partition

# Published maxima to four digits; the clustering may stop one node short.
REFERENCE_SLACK = 0.002
EXACT = 1e-12
REFERENCES = [("karate", 0.4198), ("les_miserables", 0.5600)]


def graph(name: str) -> nx.Graph:
    return {"karate": nx.karate_club_graph, "les_miserables": nx.les_miserables_graph}[name]()


def groups(labels: np.ndarray, nodes: list) -> set[frozenset]:
    return {frozenset(n for n, k in zip(nodes, labels, strict=True) if k == c) for c in set(labels.tolist())}


def rings(n_cliques: int, size: int) -> list[tuple[int, int]]:
    """Cliques joined in a ring by single links."""
    edges = []
    for c in range(n_cliques):
        members = range(c * size, (c + 1) * size)
        edges += list(combinations(members, 2))
        edges.append((c * size, (c + 1) % n_cliques * size + 1))
    return edges


def partitions_of(n: int):
    """All label vectors of set partitions of n nodes."""

    def extend(prefix: list[int]):
        if len(prefix) == n:
            yield prefix
            return
        for k in range(max(prefix, default=-1) + 2):
            yield from extend([*prefix, k])

    return extend([])


@pytest.mark.parametrize(("name", "published"), REFERENCES)
@pytest.mark.parametrize("method", ["leiden", "louvain"])
def test_published_modularity_is_reached(name, published, method):
    edges = list(graph(name).edges)
    labels = partition(edges, method=method, objective="modularity", rng=np.random.default_rng(0))
    assert modularity(edges, labels) == pytest.approx(published, abs=REFERENCE_SLACK)


@pytest.mark.parametrize("name", ["karate", "les_miserables"])
@pytest.mark.parametrize("weight", [None, "weight"])
def test_modularity_agrees_with_networkx(name, weight):
    G = graph(name)
    nodes, edges = sorted(G), list(G.edges)
    labels = np.random.default_rng(1).integers(0, 5, len(nodes))
    w = np.array([G.edges[e]["weight"] for e in edges]) if weight else None
    expected = nx.community.modularity(G, groups(labels, nodes), weight=weight)
    assert modularity(edges, labels, weights=w) == pytest.approx(expected, abs=EXACT)
    assert modularity(edges, dict(zip(nodes, labels, strict=True)), weights=w) == pytest.approx(expected, abs=EXACT)


def test_modularity_by_hand():
    # Two triangles and a bridge: inside 6/7, degrees 7 and 7 of 14.
    edges = [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (2, 3)]
    assert modularity(edges, [0, 0, 0, 1, 1, 1]) == pytest.approx(6 / 7 - 0.5, abs=EXACT)
    assert modularity(edges, [0] * 6) == pytest.approx(0, abs=EXACT)


@pytest.mark.parametrize("objective", ["cpm", "modularity"])
def test_brute_force_over_all_partitions_of_seven(objective):
    rng = np.random.default_rng(2)
    pairs = [p for p in combinations(range(7), 2) if rng.random() < 0.5]
    weights = rng.uniform(0.5, 2, len(pairs))
    nodes = list(range(7))

    def quality(labels) -> float:
        if objective == "modularity":
            return modularity(pairs, dict(zip(nodes, labels, strict=True)), weights=weights)
        inside = sum(w for (a, b), w in zip(pairs, weights, strict=True) if labels[a] == labels[b])
        return inside - 0.6 * sum(n * (n - 1) / 2 for n in np.bincount(labels))

    resolution = 0.6 if objective == "cpm" else 1.0
    found = partition(
        pairs, weights=weights, nodes=nodes, objective=objective, resolution=resolution, rng=np.random.default_rng(3)
    )
    assert quality(found) == pytest.approx(max(quality(labels) for labels in partitions_of(7)), abs=1e-9)


@pytest.mark.parametrize(("method", "resolution"), [("leiden", 0.5), ("louvain", 1.0), ("severing", 0.5)])
def test_a_ring_of_cliques_is_cut_into_its_cliques(method, resolution):
    labels = partition(rings(6, 5), method=method, resolution=resolution, rng=np.random.default_rng(4))
    assert labels.tolist() == np.repeat(np.arange(6), 5).tolist()


@pytest.mark.parametrize("method", ["leiden", "louvain", "severing"])
@pytest.mark.parametrize("max_size", [1, 2, 5, 12])
def test_no_cluster_exceeds_the_cap(method, max_size):
    edges = list(nx.barabasi_albert_graph(200, 4, seed=1).edges)
    labels = partition(edges, method=method, max_size=max_size, rng=np.random.default_rng(5))
    assert np.bincount(labels).max() <= max_size
    if max_size > 1:
        assert np.bincount(labels).max() > 1
        free = partition(edges, method=method, rng=np.random.default_rng(5))
        assert np.bincount(free).max() > max_size


def test_a_graph_on_which_leiden_goes_round_for_ever_is_cut():
    edges = [(0, 2), (0, 4), (1, 4), (3, 4), (2, 5), (3, 5)]
    weights = np.array([2.462, 1.661, 4.419, 3.134, 2.646, 4.032])
    found = partition(edges, weights=weights, max_size=1, resolution=0.4, rng=np.random.default_rng(133))
    assert sorted(found.tolist()) == [0, 1, 2, 3, 4, 5]


def test_a_clique_above_the_cap_is_cut_into_full_parts_not_dust():
    labels = partition(list(combinations(range(20), 2)), max_size=12, rng=np.random.default_rng(6))
    assert sorted(np.bincount(labels)) == [8, 12]


def test_the_cap_leaves_small_clusters_alone():
    edges = rings(4, 5)
    free, capped = (partition(edges, resolution=0.5, max_size=m, rng=np.random.default_rng(7)) for m in (None, 5))
    np.testing.assert_array_equal(free, capped)


@pytest.mark.parametrize("method", ["leiden", "louvain", "severing"])
def test_order_of_rows_and_direction_of_links_do_not_matter(method):
    edges = np.array(graph("karate").edges)
    weights = np.random.default_rng(8).uniform(0.5, 1.5, len(edges))
    order = np.random.default_rng(9).permutation(len(edges))
    plain = partition(edges, weights=weights, method=method, max_size=8, rng=np.random.default_rng(10))
    other = partition(
        edges[order][:, ::-1], weights=weights[order], method=method, max_size=8, rng=np.random.default_rng(10)
    )
    np.testing.assert_array_equal(plain, other)


@pytest.mark.parametrize("method", ["leiden", "louvain", "severing"])
def test_names_do_not_matter(method):
    edges = list(graph("karate").edges)
    weights = np.random.default_rng(11).uniform(0.5, 1.5, len(edges))
    new = np.random.default_rng(12).permutation(34)
    name = {k: f"n{new[k]:02d}" for k in range(34)}
    plain = partition(edges, weights=weights, method=method, rng=np.random.default_rng(13))
    renamed = partition(
        [(name[a], name[b]) for a, b in edges], weights=weights, method=method, rng=np.random.default_rng(13)
    )
    back = {name[k]: k for k in range(34)}
    renamed_groups = {frozenset(back[n] for n in group) for group in groups(renamed, sorted(back))}
    assert renamed_groups == groups(plain, list(range(34)))


def test_labels_follow_the_node_order_and_number_by_smallest_node():
    edges = [("d", "e"), ("a", "b")]
    assert partition(edges, nodes=["e", "c", "a", "b", "d"], rng=np.random.default_rng(0)).tolist() == [2, 1, 0, 0, 2]
    assert partition(edges, rng=np.random.default_rng(0)).tolist() == [0, 0, 1, 1]


def test_nodes_without_links_stay_alone():
    empty = np.empty((0, 2), dtype=object)
    for method in ("leiden", "louvain", "severing"):
        assert partition(empty, nodes=["b", "a"], method=method, rng=np.random.default_rng(0)).tolist() == [1, 0]
        assert partition(empty, method=method, rng=np.random.default_rng(0)).tolist() == []


def test_links_given_twice_add_up():
    edges = [(0, 1), (1, 2)]
    twice = partition([*edges, (1, 0)], resolution=1.5, rng=np.random.default_rng(0))
    weighted = partition(edges, weights=np.array([2.0, 1.0]), resolution=1.5, rng=np.random.default_rng(0))
    assert twice.tolist() == weighted.tolist() == [0, 0, 1]


def test_the_generator_decides_and_the_shared_one_is_left_alone():
    import random

    edges = list(nx.gnm_random_graph(60, 150, seed=2).edges)
    random.seed(1)
    before = random.getstate()
    first, second = (partition(edges, objective="modularity", rng=np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert random.getstate() == before


def test_integer_nodes_with_gaps_are_labelled_by_position():
    assert modularity([(0, 3), (1, 2)], [0, 1, 1, 0, 5]) == pytest.approx(0.5, abs=EXACT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"edges": [("a", "a")]}, r"edges\[0\] == \('a', 'a'\), must join two nodes"),
        ({"weights": np.array([-1.0])}, r"weights == -1.0, must be above 0"),
        ({"weights": np.array([1.0, 2.0])}, r"weights.shape == \(2,\), must be \(1,\)"),
        ({"nodes": ["a"]}, r"edges have 1 nodes such as \['b'\]"),
        ({"nodes": ["a", "b", "a"]}, r"nodes has 1 repeats"),
        ({"method": "walktrap"}, r"method == 'walktrap', must be leiden"),
        ({"objective": "map"}, r"objective == 'map', must be cpm"),
        ({"max_size": 0}, r"max_size == 0, must be at least 1"),
        ({"resolution": 0.0, "max_size": 2}, r"resolution == 0.0, must be above 0"),
        ({"resolution": np.nan}, r"resolution == nan, must be above 0"),
        ({"nodes": ["a", "b", np.nan]}, r"nodes has 1 nan, must have none"),
    ],
)
def test_errors_name_value_and_rule(arguments, message):
    edges = arguments.pop("edges", [("a", "b")])
    with pytest.raises(ValueError, match=message):
        partition(edges, rng=np.random.default_rng(0), **arguments)


def test_names_may_be_of_any_kinds():
    edges = [("b", 2), (2, "b"), (10, 2.5), (None, "b")]
    # sorted: 2, 2.5, 10, None, b; two pieces
    assert partition(edges, resolution=0.01, rng=np.random.default_rng(0)).tolist() == [0, 1, 1, 0, 0]
    assert modularity(edges, [0, 1, 1, 0, 0]) == pytest.approx(
        modularity([(0, 1), (1, 0), (2, 3), (4, 1)], [0, 0, 1, 1, 0])
    )


def test_modularity_needs_links_and_fitting_labels():
    with pytest.raises(ValueError, match=r"edges has 0 rows"):
        modularity([], [])
    with pytest.raises(ValueError, match=r"len\(labels\) == 3, must fit 2 nodes"):
        modularity([("a", "b")], [0, 1, 2])
