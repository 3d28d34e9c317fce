"""The search page in a real headless Chromium: by typing, by keyboard, on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docarray import DocList

from cliptune.generations.swap import Swap
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


@pytest.fixture
def prepared(page: Any, server: Server, models: tuple[Path, ...]) -> Iterator[Any]:
    """The page, and another model that was prepared for the pictures."""
    with Swap.at_work(server.index) as work:
        work.begin(models[1], served=server.model)
        work.prepare()
    yield page
    with Swap.at_work(server.index) as work:
        work.discard()


def test_two_models_side_by_side(prepared: Any, server: Server, tmp_path: Path) -> None:
    page = prepared
    page.goto(f"{server.http}/?q=red")
    page.wait_for_selector(".card")
    page.get_by_role("button", name="Compare models").click()
    page.wait_for_selector(".row")
    client = Client(server.grpc, timeout=60)
    names = ("current", "next")
    lists = [[m.id for m in client.search("red", 100, model=name).matches] for name in names]
    assert len(lists[0]) == len(lists[1]) == 12
    assert lists[0] != lists[1]
    for side, ids in zip(page.locator(".side").all(), lists, strict=True):
        shown = side.locator(".row").evaluate_all("rows => rows.map(row => row.dataset.id)")
        assert shown == ids
    assert page.locator(".side h2").first.inner_text().startswith("Served now")
    assert page.locator(".side h2").last.inner_text().startswith("Prepared")
    moved = page.locator(".side").last.locator(".moved").all_inner_texts()
    for rank, (one, said) in enumerate(zip(lists[1], moved, strict=True)):
        was = lists[0].index(one)
        assert said == ("=" if was == rank else f"{'▲' if rank < was else '▼'} {abs(rank - was)}")
    assert "12 of 12 stay among the first" in page.locator("#said").inner_text()
    page.locator(".side").first.locator(".row").first.hover()
    same = page.locator(".row.same").evaluate_all("rows => rows.map(row => row.dataset.id)")
    assert same == [lists[0][0]] * 2
    page.screenshot(path=str(tmp_path / "compare.png"))
    assert "compare=1" in page.url
    page.locator(".side").last.locator(".row").first.click()
    assert page.locator("#dialog dl").inner_text().startswith("id")
    page.locator("#close").click()

    page.reload()  # a shared link
    page.wait_for_selector(".row")
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=str(tmp_path / "compare-phone.png"))
    page.get_by_role("button", name="Compare models").click()
    page.wait_for_selector(".card")
    assert page.locator("#sides").is_hidden()
    assert page.problems == []


def test_one_model_has_nothing_to_compare_with(page: Any, server: Server) -> None:
    page.goto(f"{server.http}/?q=red&compare=1")
    page.get_by_text("One model").wait_for()
    page.goto(server.http)
    page.locator(".card").first.wait_for()
    assert page.get_by_role("button", name="Compare models").is_hidden()
