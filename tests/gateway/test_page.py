"""The search page in a real headless Chromium: by typing, by keyboard, on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.models.artifact import open_artifact
from cliptune.reindex.swap import Swap
from cliptune.serving import Client
from tests.pictures import picture
from tests.server import Server

pytestmark = pytest.mark.e2e


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


def stray(page: Any) -> list[str]:
    """What stands about beside an error: cards, rows, and buttons that aren't of the form."""
    found = page.locator("#results :is(.card, .row, button:not(.chip)), #examples button").all()
    return [one.inner_text() for one in found if one.is_visible()]


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
    page.get_by_text("pictures for “red”").wait_for()
    page.go_back()
    page.get_by_text("pictures for “blue”").wait_for()


def test_searching_by_picture(page: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.png"
    file.write_bytes(picture(7))
    page.set_input_files("#file", str(file))
    page.get_by_text("pictures for your picture").wait_for()
    assert page.locator(".card .title").first.inner_text().startswith("Item number 7 ")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    page.set_input_files("#file", str(broken))
    page.locator("#state.error").wait_for()
    told = page.locator("#state").inner_text()
    assert "The picture you chose: not a picture" in told
    assert "document" not in told
    assert "id '" not in told
    assert stray(page) == ["Choose another picture"]


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
    page.locator("#examples button").first.wait_for()
    chip = page.locator("#examples button").first.inner_text()
    page.locator("#examples button").first.click()
    page.get_by_text(f"pictures for “{chip}”").wait_for()
    title = page.locator(".card .title").nth(1).inner_text()
    page.locator(".card").nth(1).click()
    assert page.locator("#dialog-title").inner_text() == title
    assert "price" in page.locator("#dialog dl").inner_text()
    page.locator("#like").click()
    page.get_by_text(f"11 of 12 pictures for like “{title}”").wait_for()
    assert title not in page.locator(".card .title").all_inner_texts()
    assert page.problems == []


def test_a_filter_and_its_errors(page: Any, server: Server) -> None:
    page.goto(f"{server.http}/?q=a&filter=price%20%3C%2030")
    page.get_by_text("All 3 pictures that pass the filter for").wait_for()
    page.fill("#filter", "price <")
    page.press("#filter", "Enter")
    page.locator("#state.error").wait_for()
    assert "column 8" in page.locator("#state").inner_text()
    assert stray(page) == []
    page.fill("#filter", "price > 1000")
    page.press("#filter", "Enter")
    page.get_by_text("No picture passes this filter.").wait_for()
    page.get_by_role("button", name="Search without the filter").click()
    page.get_by_text("All 12 pictures for “a”").wait_for()
    page.goto(f"{server.http}/?filter=price%20%3D%3D%2020")
    page.get_by_text("The only picture that passes the filter").wait_for()


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
    assert page.locator("script:not([src]), style, [style*=url], [onclick]").count() == 0


def test_the_pages_files_are_kept_by_browsers_until_there_are_others(server: Server) -> None:
    page = requests.get(server.http, timeout=10)
    unchanged = {"If-None-Match": page.headers["ETag"]}
    assert requests.get(server.http, headers=unchanged, timeout=10).status_code == 304
    [script] = re.findall(r'src="(page/[0-9a-f]{16}/main.js)"', page.text)
    for name, kind in (("main.js", "text/javascript"), ("style.css", "text/css")):
        address = f"{server.http}/{script.replace('main.js', name)}"
        file = requests.get(address, timeout=10)
        assert file.headers["Content-Type"] == f"{kind}; charset=utf-8"
        assert "immutable" in file.headers["Cache-Control"]
        assert file.headers["X-Content-Type-Options"] == "nosniff"
    # Another version's page, while versions are being rolled out.
    older = requests.get(f"{server.http}/page/0123456789abcdef/main.js", timeout=10)
    assert older.headers["Cache-Control"] == "no-store"
    for name in ("index.html", "..%2Ffiles.py", "nothing.js"):
        gone = requests.get(f"{server.http}/page/0123456789abcdef/{name}", timeout=10)
        assert gone.status_code == 404


@pytest.fixture
def prepared(page: Any, server: Server, models: tuple[Path, ...]) -> Iterator[Any]:
    """The page, and another model that was prepared for the pictures."""
    with Swap.open(server.index) as swap:
        swap.begin(models[1], served=server.model)
        swap.prepare()
    yield page
    with Swap.open(server.index) as swap:
        swap.discard()


def day(artifact: Path) -> str:
    """When it was made, as the page has it."""
    created = datetime.fromisoformat(open_artifact(artifact).metadata["created"])
    return f"{created.astimezone():%-d %b %Y}"


def headings(page: Any) -> list[list[str]]:
    """Of each model: its part, name and date."""
    parts = "heading => [...heading.children].map(part => part.textContent).filter(text => text)"
    return [one.evaluate(parts) for one in page.locator(".side h2").all()]


def test_two_models_side_by_side(
    prepared: Any, server: Server, models: tuple[Path, ...], tmp_path: Path
) -> None:
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
    served, made = server.model.name, day(models[1])
    assert headings(page) == [["Live now", served], ["Prepared", "1", f"made {made}"]]
    moved = page.locator(".side").last.locator(".moved").all_inner_texts()
    for rank, (one, said) in enumerate(zip(lists[1], moved, strict=True)):
        was = lists[0].index(one)
        assert said == ("=" if was == rank else f"{'▲' if rank < was else '▼'} {abs(rank - was)}")
    assert "12 of the best 12 are on both sides" in page.locator("#said").inner_text()
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


def test_after_a_switch_and_an_undo_each_model_is_named_for_what_it_is(
    prepared: Any, server: Server, models: tuple[Path, ...]
) -> None:
    """The older model stands left; which one is live is told, not guessed from the place."""
    page, served = prepared, server.model.name
    other = ["1", f"made {day(models[1])}"]
    with Swap.open(server.index) as swap:
        swap.switch()
    page.goto(f"{server.http}/?q=red&compare=1")
    page.wait_for_selector(".row")
    assert headings(page) == [["Before", served], ["Live now", *other]]
    with Swap.open(server.index) as swap:
        swap.go_back()
    page.reload()
    page.wait_for_selector(".row")
    assert headings(page) == [["Live now", served], ["Undone", *other]]


def test_one_model_has_nothing_to_compare_with(page: Any, server: Server) -> None:
    page.goto(f"{server.http}/?q=red&compare=1")
    page.get_by_text("There is one model now").wait_for()
    page.locator(".card").first.wait_for()
    assert page.get_by_role("button", name="Compare models").is_hidden()


def test_the_count_is_of_all_that_there_is_not_of_a_page(page: Any, server: Server) -> None:
    more = [ClipDoc(id=f"more-{i}", image=picture(100 + i), tags={"price": 5.0}) for i in range(20)]
    client = Client(server.grpc)
    client.index(DocList[ClipDoc](more))
    page.goto(f"{server.http}/?q=red")
    page.get_by_text("The best 24 of 32 pictures for “red”").wait_for()
    page.mouse.wheel(0, 100_000)
    page.get_by_text("All 32 pictures for “red”").wait_for()
    assert page.locator(".card").count() == 32
    assert page.get_by_role("button", name="Show more").is_hidden()
    # By a button too, which takes those who press it to what has come.
    page.add_init_script("delete window.IntersectionObserver")
    page.goto(f"{server.http}/?q=red")
    page.get_by_role("button", name="Show more").press("Enter")
    page.get_by_text("All 32 pictures for “red”").wait_for()
    order = "[...document.querySelectorAll('.card')].indexOf(document.activeElement)"
    assert page.evaluate(order) == 24
    page.goto(f"{server.http}/?q=red&filter=price%20%3C%20100")
    page.get_by_text("The best 24 of 30 pictures that pass the filter").wait_for()
    # Pictures without titles are pictures too, and each is another one.
    page.goto(server.http)
    page.get_by_text("20 of 32 pictures").wait_for()
    for there in (client, Client(server.http)):
        found = there.search("red", limit=3, filter="price < 100", include_total=True)
        assert (len(found.matches), found.total) == (3, 30)
        assert there.search("red", limit=3).total is None


@pytest.mark.parametrize("size", [(300, 400), (400, 300), (100, 400)])
def test_pictures_are_shown_whole(page: Any, server: Server, size: tuple[int, int]) -> None:
    client = Client(server.grpc)
    client.clear()
    client.index(DocList[ClipDoc](ClipDoc(image=picture(i, size)) for i in range(4)))
    page.goto(f"{server.http}/?q=red")
    page.wait_for_selector(".card")
    page.locator(".card").first.click()
    page.wait_for_function("() => [...document.images].every(i => i.naturalWidth > 0)")
    fits = page.locator(".tile img").evaluate_all(
        "all => all.map(i => getComputedStyle(i).objectFit)"
    )
    assert fits == ["contain"] * 5
    # Most tiles have their pictures' shape, so that little of them is empty.
    box = page.locator(".card .tile").first.bounding_box()
    shape = min(max(size[0] / size[1], 3 / 4), 4 / 3)
    assert box["width"] / box["height"] == pytest.approx(shape, rel=0.02)
    # Ids that were made up aren't titles.
    assert page.locator(".card .title").all_inner_texts() == ["Untitled picture"] * 4


def test_a_very_long_query_leaves_room_for_its_results(page: Any, server: Server) -> None:
    query = "wide " * 400
    for width in (1100, 360):
        page.set_viewport_size({"width": width, "height": 740})
        page.goto(f"{server.http}/?q={query}")
        page.wait_for_selector(".card")
        page.get_by_text("All 12 pictures for “wide wide").wait_for()
        assert page.locator("#line").bounding_box()["height"] < 90
        assert page.locator("#said .told").get_attribute("title") == query.strip()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert len(page.title()) < 100


def answer_with(page: Any, **answer: Any) -> None:
    """Let the page's next searches be answered so."""
    page.unroute("**/search")
    page.route("**/search", lambda route: route.fulfill(**answer))


def test_errors_are_told_alone_and_can_be_left(page: Any, server: Server) -> None:
    page.goto(f"{server.http}/?q=red")
    page.wait_for_selector(".card")
    file = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"words"}
    page.set_input_files("#file", files=[file])
    page.get_by_text("“notes.txt” is a file of another kind").wait_for()
    assert stray(page) == ["Back to the search"]
    page.locator("#act").click()
    page.wait_for_selector(".card")

    for status, kind, title, ways in (
        (503, "Unavailable", "The server is busy", ["Try again"]),
        (500, "InternalError", "The server has a problem", ["Try again"]),
        (409, "ModelMismatch", "Another model's index", []),
    ):
        error = {"type": kind, "message": "document 0 (id '1fbf9c'): a reason"}
        answer_with(page, status=status, json={"error": error})
        page.press("#query", "Enter")
        page.get_by_role("heading", name=title).wait_for()
        assert stray(page) == ways
        assert "1fbf9c" not in page.locator("main").inner_text()
        page.unroute("**/search")
        page.press("#query", "Enter")
        page.wait_for_selector(".card")

    page.route("**/search", lambda route: route.abort())
    page.press("#query", "Enter")
    page.get_by_text("The server can't be reached").wait_for()
    assert stray(page) == ["Try again"]
    page.unroute("**/search")
    page.locator("#act").click()
    page.wait_for_selector(".card")
    assert page.locator("#state").is_hidden()


def test_warnings_stand_above_the_results_and_go_with_them(page: Any, server: Server) -> None:
    match = {"id": "item-1", "score": 0.5, "text": "One", "tags": {}}
    match["image_url"] = "https://elsewhere.example/pictures/item-1"
    body = {
        "data": [{"matches": [match], "total": 1}],
        "warnings": ["No tag is called <b>prize</b>."],
    }
    answer_with(page, json=body)
    page.fill("#query", "red")
    page.press("#query", "Enter")
    page.get_by_text("No tag is called <b>prize</b>.").wait_for()
    above = page.locator("#warnings").bounding_box()["y"]
    assert above < page.locator(".card").first.bounding_box()["y"]
    # What an answer names as a picture's address is asked of this server alone.
    assert page.locator(".card img").get_attribute("src") == f"{server.http}/pictures/item-1"
    page.unroute("**/search")
    page.press("#query", "Enter")
    page.get_by_text("All 12 pictures").wait_for()
    assert page.locator("#warnings").is_hidden()


def test_below_a_path_of_another_site(page: Any, server: Server) -> None:
    """Behind a proxy that gives the page a path, all that it asks for is below that path."""
    asked: list[str] = []

    def forward(route: Any) -> None:
        asked.append(route.request.url)
        route.continue_(url=route.request.url.replace("/shop/search/", "/", 1))

    page.goto("about:blank")  # all that was asked for before has ended
    page.route("**/*", forward)
    page.goto(f"{server.http}/shop/search/?q=red")
    page.wait_for_selector(".card")
    page.wait_for_function("() => [...document.images].every(i => i.naturalWidth > 0)")
    page.locator(".card").nth(1).click()
    page.locator("#like").click()
    page.get_by_text("pictures for like").wait_for()
    assert len(asked) > 10
    outside = [url for url in asked if not url.startswith((f"{server.http}/shop/search/", "data:"))]
    assert outside == []
    assert page.problems == []
