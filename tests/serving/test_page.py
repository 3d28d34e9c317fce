"""The search page in a real headless Chromium: by typing, by keyboard, on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docarray import DocList

from cliptune.serving import Client
from tests.serving.conftest import Server, picture

pytestmark = pytest.mark.e2e
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (scripts/install-test-tools installs it)")
    from playwright.sync_api import sync_playwright

    arguments = [
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, server: Server, pictures: DocList) -> Iterator[Any]:
    client = Client(server.grpc)
    client.clear()
    client.index(pictures)
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    page = context.new_page()
    page.problems = []
    page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(server.http)
    yield page
    context.close()


def test_searching_by_typing(page: Any, server: Server) -> None:
    page.get_by_text("12 pictures").wait_for()
    page.fill("#query", "something red")
    page.press("#query", "Enter")
    page.wait_for_selector(".card")
    expected = Client(server.grpc).search("something red", limit=24).matches
    titles = page.locator(".card .title").all_inner_texts()
    assert titles == [match.text for match in expected], "markup in titles is shown as text"
    scores = [float(text) for text in page.locator(".card .score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    page.wait_for_function(
        "() => [...document.images].every(i => i.complete && i.naturalWidth > 0)"
    )
    assert "q=something%20red" in page.url
    assert page.problems == []


def test_a_shared_link_and_the_keyboard(page: Any, server: Server) -> None:
    page.goto(f"{server.http}/?q=blue")
    page.wait_for_selector(".card")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.press("ArrowDown")
    order = "[...document.querySelectorAll('.card')].indexOf(document.activeElement)"
    assert page.evaluate(order) == 0
    page.keyboard.press("ArrowRight")
    assert page.evaluate(order) == 1
    page.keyboard.press("ArrowDown")
    assert page.evaluate(order) > 2
    page.keyboard.press("Escape")
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    page.get_by_text("results for “red”").wait_for()
    page.go_back()
    page.get_by_text("results for “blue”").wait_for()


def test_searching_by_picture(page: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.png"
    file.write_bytes(picture(7))
    page.set_input_files("#file", str(file))
    page.get_by_text("results for your picture").wait_for()
    assert page.locator(".card .title").first.inner_text().startswith("Item number 7 ")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    page.set_input_files("#file", str(broken))
    page.locator("#state.error").wait_for()


def test_on_a_phone(browser: Any, page: Any, server: Server) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True)
    phone = context.new_page()
    phone.goto(f"{server.http}/?q=red")
    phone.wait_for_selector(".card")
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = [card.bounding_box() for card in phone.locator(".card").all()[:2]]
    assert abs(boxes[0]["y"] - boxes[1]["y"]) < 3, "two columns"
    assert boxes[0]["x"] < boxes[1]["x"]
    context.close()


def test_an_empty_index_says_so(page: Any, server: Server) -> None:
    Client(server.grpc).clear()
    page.goto(server.http)
    page.get_by_text("The index is empty").wait_for()


def test_examples_details_and_more_like_this(page: Any) -> None:
    page.locator("#chips button").first.wait_for()
    chip = page.locator("#chips button").first.inner_text()
    page.locator("#chips button").first.click()
    page.get_by_text(f"results for “{chip}”").wait_for()
    title = page.locator(".card .title").nth(1).inner_text()
    page.locator(".card").nth(1).click()
    assert page.locator("#dialog-title").inner_text() == title
    assert "price" in page.locator("#dialog dl").inner_text()
    page.locator("#like").click()
    page.get_by_text("results for your picture").wait_for()
    assert page.locator(".card .title").first.inner_text() == title
    assert page.locator(".card .score").first.inner_text() == "1.00"
    assert page.problems == []


def test_a_filter_and_its_errors(page: Any, server: Server) -> None:
    page.goto(f"{server.http}/?q=a&filter=price%20%3C%2030")
    page.get_by_text("3 results for").wait_for()
    page.fill("#filter", "price <")
    page.press("#filter", "Enter")
    page.locator("#state.error").wait_for()
    assert "column 8" in page.locator("#state").inner_text()
    assert page.locator(".card").count() == 0
    page.fill("#filter", "price > 1000")
    page.press("#filter", "Enter")
    page.get_by_text("Nothing found").wait_for()


def test_the_page_loads_nothing_from_elsewhere(page: Any, server: Server) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    response = page.goto(server.http)
    page.locator(".card").first.wait_for()
    assert asked
    assert all(url.startswith((server.http, "data:", "blob:")) for url in asked)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
