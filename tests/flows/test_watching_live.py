"""An operator watches: what a network asks for stands on the screen within a second, without a reload."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.dashboard_browser import CHROMIUM, Looked, chromium
from tests.harness.environment import IN_CI
from tests.harness.product import Files, Product, running

pytestmark = [pytest.mark.flow, pytest.mark.slow]

PICTURES = os.environ.get("PICTURES")  # a directory to keep screenshots in


@pytest.fixture(scope="module")
def demo() -> Iterator[Product]:
    with running(demo=True, environment={"DOTS_NFT_TABLE": "dots_watch"}) as product:
        yield product


@pytest.fixture
def looked(demo: Product) -> Iterator[Looked]:
    if not CHROMIUM.exists():
        if IN_CI:
            pytest.fail("chromium is missing; .ci/run installs it")
        pytest.skip("Debian's chromium is not installed")
    with chromium() as found:
        yield found
        assert found.errors == []
        assert found.hosts == {"127.0.0.1"}, "no request leaves the machine"


def log_in(page: Page, product: Product) -> None:
    page.goto(f"http://127.0.0.1:{product.web_port}/")
    page.get_by_label("Name").fill("operator")
    page.get_by_label("Password").fill((product.home / "demo" / "password").read_text().strip())
    page.keyboard.press("Enter")
    expect(page.locator("[data-live-state]")).to_have_text("Live")


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / f"{name}.png"))


def test_a_mitigation_appears_within_a_second_and_the_stop_reaches_the_client(demo: Product, looked: Looked) -> None:
    page = looked.page
    client = Files("demo", "", demo.home / "demo" / "client")
    log_in(page, demo)
    expect(page.locator("h1")).to_have_text("The first five minutes")
    picture(page, "first-minutes")
    page.evaluate("window.sameDocument = true")

    asked = demo.client(client, "mitigate", "198.51.100.7")
    answered = time.monotonic()
    page.locator("tr a.target", has_text="198.51.100.7").wait_for(timeout=3000)
    seen = time.monotonic()

    assert asked.json["code"] == "2.01"
    assert seen - answered < 1.0
    assert page.evaluate("window.sameDocument"), "the page was not loaded again"
    row = page.locator("tr", has_text="198.51.100.7")
    expect(row).to_contain_text("Installed", timeout=3000)

    # From the row to the page of the mitigation, and the stop that asks first.
    row.locator("a.target").click()
    expect(page.locator("h1")).to_contain_text("198.51.100.7")
    expect(page.locator("main")).to_contain_text("amplification ports")
    picture(page, "mitigation")
    page.locator("main").get_by_text("Stop…").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    picture(page, "stop")
    dialog.get_by_role("button").last.click()
    expect(page.locator("main")).to_contain_text("Ended", timeout=5000)

    status = demo.client(client, "status").json["scope"][0]
    assert status["status"] == 7
    show = demo.mitigation(1)
    assert show["history"][-1]["actor"] == "operator operator"


def test_a_stranger_sees_nothing(demo: Product) -> None:
    import urllib.error
    import urllib.request

    for path in ("/", "/mitigations/", "/mitigations/1/", "/sessions/", "/domains/"):
        with urllib.request.urlopen(f"http://127.0.0.1:{demo.web_port}{path}", timeout=5) as answer:
            assert "/login/" in answer.url
            assert b"198.51.100" not in answer.read()
    request = urllib.request.Request(f"http://127.0.0.1:{demo.web_port}/", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=5)
    assert refused.value.code == 400
