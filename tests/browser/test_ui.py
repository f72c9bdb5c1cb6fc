"""The Dagster web UI as a person meets it: a real `dg dev` on a new lab, driven by a real browser."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from pricelab_dagster import template
from pricelab_dagster.instance import prepare_home

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
EXPERIMENT = "a-tenth-cheaper"
START_SECONDS, RUN_SECONDS = 120, 240
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ui") / "lab"
    template.write(folder)
    return folder


@pytest.fixture(scope="module")
def address(lab: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "DAGSTER_HOME": str(prepare_home(lab)),
        "PRICELAB_HOME": str(lab),
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    log = (lab / "dev.log").open("w")
    command = ["dg", "dev", "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _until(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5), START_SECONDS)
        yield f"http://127.0.0.1:{port}"
    finally:
        # webserver, daemon and code server are processes of their own
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            # its processes end on an interrupt, which a shell that started the tests in the background has switched off
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)
        log.close()


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    chromium = shutil.which("chromium")
    assert chromium, "test-browser needs chromium. On Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        found = browser.new_page(viewport={"width": 1500, "height": 950})
        found.set_default_timeout(30_000)
        yield found
        browser.close()


def test_the_code_location_loads_without_error_or_warning(page: Page, address: str) -> None:
    page.goto(f"{address}/deployment/locations")
    expect(page.get_by_text("pricelab", exact=True).first).to_be_visible()
    expect(page.get_by_text("Loaded", exact=True).first).to_be_visible()
    query = "{workspaceOrError{... on Workspace{locationEntries{name locationOrLoadError{__typename}}}}}"
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    entries = json.load(urllib.request.urlopen(request))["data"]["workspaceOrError"]["locationEntries"]
    assert [(one["name"], one["locationOrLoadError"]["__typename"]) for one in entries] == [
        ("pricelab", "RepositoryLocation")
    ]


def test_groups_descriptions_and_columns_are_shown(page: Page, address: str) -> None:
    page.goto(f"{address}/asset-groups")
    for group in ("sources", "features", "design", "spillover", "panel", "effects", "marts"):
        expect(page.get_by_text(group, exact=True).first).to_be_visible()
    page.goto(f"{address}/assets/experiment/effects")
    expect(page.get_by_text("One row per metric, scale, estimator and arm").first).to_be_visible()
    expect(page.get_by_text("two_arm_share").first).to_be_visible()


def test_automation_is_visible_and_switchable(page: Page, address: str) -> None:
    page.goto(f"{address}/automation")
    for name in ("daily_refresh", "events", "experiments", "publish_marts"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    # one box to select and one to switch for each of the four, and one to select all
    expect(page.locator("input[type=checkbox]")).to_have_count(9)


def test_the_picture_of_a_design_is_shown(page: Page, address: str, lab: Path) -> None:
    _until(lambda: (lab / "lake/experiment/price_plan" / f"{EXPERIMENT}.parquet").exists() or None, RUN_SECONDS)
    page.goto(f"{address}/assets/experiment/assignments?view=partitions&partition={EXPERIMENT}")
    page.get_by_text("Show Markdown").first.click()
    picture = page.locator("img[src^='data:image/svg+xml']").first
    expect(picture).to_be_visible()
    assert picture.evaluate("one => one.naturalWidth") > 0
    page.screenshot(path=lab / "picture.png")


def test_a_partition_materialised_from_the_page_ends_green(page: Page, address: str, lab: Path) -> None:
    instance = dg.DagsterInstance.from_config(str(lab / ".dagster"))
    # the sensor adds the experiments as partitions and runs them; only then is there something to choose
    _until(lambda: (lab / "lake/experiment/diagnostics" / f"{EXPERIMENT}.parquet").exists() or None, RUN_SECONDS)
    before = {run.run_id for run in instance.get_runs()}
    page.goto(f"{address}/assets/experiment/price_plan")
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Select a partition or create one").click()
    page.get_by_title(EXPERIMENT, exact=True).locator("span").click()
    page.keyboard.press("Escape")
    dialog.get_by_role("button", name="Launch").click()

    def finished() -> list[dg.DagsterRun] | None:
        wanted = {"dagster/partition": EXPERIMENT}
        runs = [one for one in instance.get_runs(dg.RunsFilter(tags=wanted)) if one.run_id not in before]
        return runs if runs and all(one.is_finished for one in runs) else None

    runs = _until(finished, RUN_SECONDS)
    assert [one.status for one in runs] == [dg.DagsterRunStatus.SUCCESS]
    page.goto(f"{address}/runs/{runs[0].run_id}")
    expect(page.get_by_text("Success").first).to_be_visible()
    page.screenshot(path=lab / "run.png")


def _until(probe, seconds: float):
    """Return what `probe` returns once it is not None; connection errors count as not yet."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            found = probe()
        except OSError:
            found = None
        if found is not None:
            return found
        time.sleep(1)
    raise AssertionError(f"nothing after {seconds} seconds")
