import base64
import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from pricelab_dagster import pictures
from pricelab_dagster.science import designs

SVG = "{http://www.w3.org/2000/svg}"
RUN = re.compile(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z")
START = np.datetime64("2017-07-10")
MAX_BYTES = 25_000  # a picture of this size shows inline in the web UI
GREY_STEP = 1.2  # ratio of luminance at which two greys next to each other are seen as two, in print too
WIDEST_EM = {
    11: 0.66,
    12: 0.56,
    15: 0.66,
}  # mean advance of such texts in DejaVu Sans, the widest usual sans-serif font
WEEK = 7


def grid(kind="crossover", n=12, *, t=28, n_arms=2, seed=1):
    rng = np.random.default_rng(seed)
    arm = rng.integers(0, n_arms, (n, t))
    if kind == "triggered":
        arm = np.where(np.arange(t) < rng.integers(0, t - 2, n)[:, None], -1, arm)
    in_analysis = rng.random((n, t)) < 0.7 if kind != "time_bound" else np.ones((n, t), dtype=bool)
    return [f"p{i}" for i in range(n)], START + np.arange(t), arm, in_analysis


def names(n_arms):
    return ["control", *(f"arm {i}" for i in range(1, n_arms))]


def draw(cells, kind="crossover", title="A title", arms=("control", "treatment"), **options):
    return pictures.design(*cells, kind=kind, title=title, arms=arms, **options)


def paths(svg):
    return {p.get("data-cell"): p for p in ElementTree.fromstring(svg).iter(f"{SVG}path") if p.get("data-cell")}


def read_cells(svg):
    """The class of every cell, read back from the paths; each cell must be drawn exactly once."""
    cells = {}
    for name, path in paths(svg).items():
        assert RUN.sub("", path.get("d")) == ""
        for column, row, length, back in RUN.findall(path.get("d")):
            assert length == back
            for at in range(int(column), int(column) + int(length)):
                assert (int(row), at) not in cells
                cells[int(row), at] = name
    shape = tuple(max(key[axis] for key in cells) + 1 for axis in (0, 1))
    assert len(cells) == shape[0] * shape[1]
    table = np.empty(shape, dtype=object)
    for key, name in cells.items():
        table[key] = name
    return table


def expected_cells(arm, in_analysis, eve):
    rows = []
    for arms, counted in zip(arm, in_analysis, strict=True):
        drawn = ["outside"] * eve
        for a, c in zip(arms, counted, strict=True):
            drawn.append("outside" if a < 0 else f"arm-{a}" + ("" if c else "-blackout"))
        rows.append(drawn)
    return np.array(rows, dtype=object)


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def row_labels(svg, ids):
    return [text for text in texts(svg) if text in set(ids)]


@pytest.mark.parametrize("n_arms", [2, 4])
@pytest.mark.parametrize("kind", list(pictures.KINDS))
def test_the_picture_holds_every_cell_of_the_arrays(kind, n_arms):
    cells = grid(kind, n_arms=n_arms)
    svg = draw(cells, kind, arms=names(n_arms))
    np.testing.assert_array_equal(read_cells(svg), expected_cells(cells[2], cells[3], WEEK))
    assert row_labels(svg, cells[0]) == cells[0]


def test_runs_of_equal_neighbours_are_one_piece():
    ids, dates, _, _ = grid(n=1, t=6)
    arm, in_analysis = np.array([[0, 0, 0, 1, 1, 0]]), np.array([[1, 1, 1, 0, 1, 1]], dtype=bool)
    svg = draw((ids, dates, arm, in_analysis), eve=2)
    assert {name: path.get("d") for name, path in paths(svg).items()} == {
        "outside": "M0 0h2v1h-2z",
        "arm-0": "M2 0h3v1h-3zM7 0h1v1h-1z",
        "arm-1-blackout": "M5 0h1v1h-1z",
        "arm-1": "M6 0h1v1h-1z",
    }


@pytest.mark.parametrize("kind", list(pictures.KINDS))
def test_colours_are_those_of_the_kind(kind):
    ids, dates, arm, in_analysis = grid(kind)
    fills = {name: path.get("fill") for name, path in paths(draw((ids, dates, arm, in_analysis | True), kind)).items()}
    control = "#a3dab2" if kind == "triggered" else "#ffffff"
    assert fills == {"arm-0": control, "arm-1": "#d0312d", "outside": "#e4e8ec"}


@pytest.mark.parametrize("kind", ["crossover", "triggered"])
@pytest.mark.parametrize("n_arms", [2, 3, 4, 5])
def test_arms_differ_in_lightness(kind, n_arms):
    arms = pictures.arm_colours(kind, n_arms)
    greys = sorted(luminance(colour) for colour in [*arms, pictures.OUTSIDE])
    steps = [(lighter + 0.05) / (darker + 0.05) for darker, lighter in itertools.pairwise(greys)]
    assert min(steps) > GREY_STEP
    assert all(red > 2 * blue and red > 1.5 * green for red, green, blue in map(channels, arms[1:]))


def channels(colour):
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def luminance(colour):
    linear = [(c / 255 + 0.055) ** 2.4 / 1.055**2.4 if c > 10 else c / 255 / 12.92 for c in channels(colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("n_arms", [2, 4])
def test_a_hatch_stands_in_blackouts_alone_over_the_colour_of_its_arm(n_arms):
    svg = draw(grid(n_arms=n_arms), arms=names(n_arms))
    colours = pictures.arm_colours("crossover", n_arms)
    patterns = {p.get("id"): p[0].get("fill") for p in ElementTree.fromstring(svg).iter(f"{SVG}pattern")}
    hatched = {name: path.get("fill") for name, path in paths(svg).items() if path.get("fill").startswith("url(")}
    assert set(hatched) == {f"arm-{a}-blackout" for a in range(n_arms)}
    for a in range(n_arms):
        assert patterns[hatched[f"arm-{a}-blackout"][5:-1]] == colours[a]
    ids, dates, arm, in_analysis = grid()
    assert "url(" not in draw((ids, dates, arm, in_analysis | True))


def test_cells_outside_the_experiment_are_no_blackout():
    ids, dates, arm, in_analysis = grid("triggered")
    svg = draw((ids, dates, arm, in_analysis & (arm >= 0)), "triggered")
    np.testing.assert_array_equal(read_cells(svg), expected_cells(arm, in_analysis, WEEK))


def test_a_sample_keeps_the_arm_of_a_single_product_and_the_order_of_rows():
    ids, dates, arm, in_analysis = grid("time_bound", n=300)
    arm = np.tile(arm[:, :1], (1, len(dates)))
    arm[277] = 2
    svg = draw((ids, dates, arm, in_analysis), "time_bound", arms=names(3))
    shown = row_labels(svg, ids)
    assert len(shown) == 24
    assert "p277" in shown
    rows = [ids.index(name) for name in shown]
    assert rows == sorted(rows)
    np.testing.assert_array_equal(read_cells(svg), expected_cells(arm[rows], in_analysis[rows], WEEK))
    assert "24 of 300 products are shown, spread evenly over the list, with every arm among them." in texts(svg)
    assert "are shown" not in draw(grid(n=24))


@pytest.mark.parametrize("limit", [4, 7, 24])
def test_a_sample_is_proportional_and_evenly_spread(limit):
    n = 240
    ids, dates, _, in_analysis = grid(n=n, t=14)
    first = np.repeat([0, 1, 0, 1], [90, 30, 90, 30])
    arm = np.where(np.arange(14) < 7, first[:, None], 1 - first[:, None])
    rows = [ids.index(i) for i in row_labels(draw((ids, dates, arm, in_analysis | True), max_products=limit), ids)]
    assert len(rows) == limit
    assert abs(sum(first[rows]) - limit / 4) < 1
    for label in (0, 1):
        members = np.flatnonzero(first == label)
        of_label = [row for row in rows if first[row] == label]
        gaps = np.diff(np.searchsorted(members, of_label))
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_a_sample_of_random_days_keeps_an_arm_of_one_cell():
    ids, dates, arm, in_analysis = grid("random_days", n=300, t=56)
    arm[123, 45] = 2
    cells = (ids, dates, arm, in_analysis | True)
    assert "arm-2" in paths(draw(cells, "random_days", arms=names(3)))
    at_most_one_more = draw(cells, "random_days", arms=names(3), max_products=1)
    assert {"arm-0", "arm-1", "arm-2"} <= set(paths(at_most_one_more))
    assert len(row_labels(at_most_one_more, ids)) == 2


def test_text_of_the_user_is_escaped():
    nasty = "<script>&\"'\x00]]>"
    _, dates, arm, in_analysis = grid(n=2)
    svg = draw(([nasty, "b"], dates, arm, in_analysis), title=nasty, arms=["control", nasty])
    clean = nasty.replace("\x00", "\ufffd")
    found = texts(svg)
    assert found.count(clean) == 2  # the title and the legend
    root = ElementTree.fromstring(svg)
    assert root.find(f"{SVG}title").text == clean
    assert [e.text for e in root.iter(f"{SVG}title")].count(clean) == 2
    assert "<script" not in svg
    assert list(root.iter(f"{SVG}script")) == []


def test_equal_arguments_give_equal_bytes_and_one_cell_changes_them():
    cells = grid()
    assert draw(cells) == draw(cells)
    flipped = cells[2].copy()
    flipped[3, 4] = 1 - flipped[3, 4]
    assert draw((*cells[:2], flipped, cells[3])) != draw(cells)


def test_two_pictures_on_one_page_share_no_id():
    first, second = (set(re.findall(r' id="([^"]+)"', draw(grid(seed=seed)))) for seed in (1, 2))
    assert len(first) == 6  # title, description, two patterns for each of two arms
    assert first.isdisjoint(second)


@pytest.mark.parametrize("t", [0, 1])
def test_an_empty_experiment_says_so(t):
    cells = np.zeros((0, t))
    svg = draw(([], START + np.arange(t), cells, cells), "triggered", title="Mailers")
    assert texts(svg) == ["Mailers", "Triggered design: there is no product in this experiment yet."]


def test_random_days_stay_small():
    coins = designs.random_days(
        [str(i) for i in range(24)], START, duration=56, balance="none", rng=np.random.default_rng(2)
    )
    svg = draw((coins.product_id, coins.date, coins.arm, coins.in_analysis), "random_days")
    assert read_cells(svg).shape == (24, 63)
    assert len(svg.encode()) < MAX_BYTES


@pytest.mark.parametrize(
    ("grain", "eve", "columns"), [("day", None, 7), ("day", 0, 0), ("day", 3, 3), ("week", None, 1), ("week", 8, 2)]
)
def test_the_start_is_a_line_after_the_eve(grain, eve, columns):
    ids, dates, arm, in_analysis = grid()
    dates = START + np.arange(len(dates)) * (7 if grain == "week" else 1)
    svg = draw((ids, dates, arm, in_analysis), grain=grain, eve=eve)
    table = read_cells(svg)
    assert (table[:, :columns] == "outside").all()
    assert table.shape[1] == columns + len(dates)
    root = ElementTree.fromstring(svg)
    left, width = re.search(r"translate\((\d+) \d+\) scale\((\d+) ", svg).groups()
    line = next(p for p in root.iter(f"{SVG}path") if p.get("data-part") == "start").get("d")
    assert line.startswith(f"M{int(left) + int(width) * columns} ")
    assert [e.text for e in root.iter(f"{SVG}text") if e.get("font-weight") == "700"] == ["10 Jul"]


def test_the_subtitle_ends_on_the_last_day_of_the_last_week():
    ids, _, arm, in_analysis = grid(t=2)
    weekly = draw((ids, START + np.array([0, 7]), arm, in_analysis), grain="week")
    assert "Crossover design, 10 Jul 2017 to 23 Jul 2017 by week, 12 products." in texts(weekly)
    daily = draw((ids, START + np.arange(2), arm, in_analysis))
    assert "Crossover design, 10 Jul 2017 to 11 Jul 2017 by day, 12 products." in texts(daily)


@pytest.mark.parametrize("grain", ["day", "week"])
@pytest.mark.parametrize("t", [1, 2, 14, 63, 200, 400, 900])
def test_no_labels_overlap_or_leave_the_picture(t, grain):
    _, _, arm, in_analysis = grid(n=3, t=t + 3)
    dates = START + np.arange(t + 3) * (7 if grain == "week" else 1)
    svg = draw((["a" * 40, "9" * 14, "x"], dates, arm, in_analysis), grain=grain)
    root = ElementTree.fromstring(svg)
    width, height = float(root.get("width")), float(root.get("height"))
    at_right = {id(text) for g in root.iter(f"{SVG}g") if g.get("text-anchor") == "end" for text in g}
    boxes = []
    for e in root.iter(f"{SVG}text"):
        label = e[0].tail if len(e) else e.text
        size, x, y = float(e.get("font-size", pictures.LABEL_SIZE)), float(e.get("x")), float(e.get("y"))
        extent = WIDEST_EM[size] * size * len(label)
        right_aligned = id(e) in at_right or e.get("text-anchor") == "end"
        boxes.append((x - extent, x, y, size) if right_aligned else (x, x + extent, y, size))
    assert len(boxes) >= 1 + 1 + 1 + 3 + 1 + 4  # title, subtitle, "product", ids, the first date, legend
    assert all(x0 >= 0 and x1 <= width and size <= y <= height for x0, x1, y, size in boxes)
    for (x0, x1, y, size), (u0, u1, v, _) in itertools.combinations(boxes, 2):
        assert x1 <= u0 or u1 <= x0 or abs(y - v) >= size


def test_a_long_product_id_is_cut_in_the_middle_and_whole_on_hover():
    _, dates, arm, in_analysis = grid(n=1)
    svg = draw((["SKU-2017-000-00042-XL"], dates, arm, in_analysis))
    label = next(e for e in ElementTree.fromstring(svg).iter(f"{SVG}text") if len(e))
    assert (label[0].text, label[0].tail) == ("SKU-2017-000-00042-XL", "SKU-201…042-XL")


def test_each_legend_entry_explains_itself_with_counts_over_all_products():
    ids, dates, arm, in_analysis = grid(n=300)
    root = ElementTree.fromstring(draw((ids, dates, arm, in_analysis)))
    legend = [g for g in root.iter(f"{SVG}g") if g.get("data-part") == "legend"]
    labels = [g.find(f"{SVG}text").text for g in legend]
    assert labels == ["control", "treatment", "blackout: price in force, data left out", "outside the experiment"]
    treated = int(((arm == 1) & in_analysis).sum())
    hover = legend[1].find(f"{SVG}title").text
    assert hover == (
        f"treatment: its price is in force, the data count. In all {treated:,} product-days, 300 of 300 products."
    )
    assert "are left out" in legend[2].find(f"{SVG}title").text
    assert root.find(f"{SVG}desc").text.startswith("Crossover design, 10 Jul 2017 to 6 Aug 2017 by day, 300 products.")


def test_markdown_holds_the_picture():
    svg = draw(grid(), title="Milk [`cheaper`] <b>")
    found = re.fullmatch(r"!\[Milk cheaper b\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", pictures.markdown(svg))
    assert base64.b64decode(found[1]).decode() == svg


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "switchback"}, "kind == 'switchback', must be one of time_bound"),
        ({"grain": "month"}, "grain == 'month', must be one of day, week"),
        ({"arms": ["control"]}, "arm holds 0 to 1, must be in -1 to 0"),
        ({"max_products": 0}, "max_products == 0, must be 1 or more"),
        ({"eve": -1}, "eve == -1, must be 0 or more"),
        ({"product_id": ["a"]}, r"arm\.shape == \(12, 28\), must be \(1, 28\)"),
        ({"in_analysis": True}, r"in_analysis\.shape == \(\), must be \(12, 28\)"),
        ({"date": START - np.arange(28)}, r"date\[1\] == 2017-07-09, must be after 2017-07-10"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change, message):
    arguments = dict(zip(("product_id", "date", "arm", "in_analysis"), grid(), strict=True))
    arguments |= {"kind": "crossover", "title": "x", "arms": ["control", "treatment"]} | change
    with pytest.raises(ValueError, match=message):
        pictures.design(**arguments)
