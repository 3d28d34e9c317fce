"""The search page as a shop's: filters made of tags, groups, orders; and for everyone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from docarray import DocList

from cliptune.documents import ClipDoc, QueryDoc, QueryPart
from cliptune.index import parse_filter
from cliptune.index.filters.language import And, Compare, Field, In
from cliptune.serving import Client
from tests.pictures import picture
from tests.server import Server
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

HOSTILE = '<img src=x onerror="window.hacked=1">\'`\\'


def stock() -> DocList[ClipDoc]:
    """Twelve pictures of four products, and of two brands."""
    return DocList[ClipDoc](
        [
            ClipDoc(
                id=f"item-{i}",
                text=f"Leather boots number {i}",
                image=picture(i),
                tags={
                    "product": f"product {i // 3}",
                    "brand": "Nordvik" if i < 8 else HOSTILE,
                    "price": 10.0 * i + 5,
                    "sold_out": i == 0,
                    HOSTILE: "one" if i % 2 else "two",
                },
            )
            for i in range(12)
        ]
    )


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.grpc, timeout=60) as client:
        client.clear()
        client.index(stock())
        yield client


@pytest.fixture
def page(browser: Any, server: Server, client: Client) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.problems = []
    page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    yield page
    context.close()


def shown(page: Any) -> list[str]:
    """The titles of the results."""
    return page.locator(".card .title").all_inner_texts()


def found(client: Client, query: Any, **options: Any) -> list[str]:
    return [str(match.text) for match in client.search(query, limit=24, **options).matches]


def counts(page: Any, tag: str) -> dict[str, str]:
    """What the filter of a tag lists, with the counts."""
    rows = page.locator(f"#facets [role=group][aria-label='{tag}'] :is(.value, .range)").all()
    return {row.locator(".name").inner_text(): row.locator(".count").inner_text() for row in rows}


def test_filters_are_made_of_tags_with_counts_under_the_others(
    page: Any, server: Server, client: Client
) -> None:
    page.goto(f"{server.http}/?q=red")
    page.get_by_label("Nordvik").wait_for()
    assert counts(page, "brand") == {"Nordvik": "8", HOSTILE: "4"}
    assert counts(page, "sold out") == {"false": "11", "true": "1"}
    assert sum(map(int, counts(page, "price").values())) == 12

    page.get_by_role("checkbox", name="Nordvik").check()
    page.get_by_text("All 8 pictures that pass the filter").wait_for()
    assert shown(page) == found(client, "red", filter="brand == 'Nordvik'")
    assert "is.brand=Nordvik" in page.url
    # What is chosen of a tag doesn't count for itself: another brand may be chosen too.
    page.wait_for_function("() => document.querySelector('.facet .chosen')")
    assert counts(page, "brand") == {"Nordvik": "8", HOSTILE: "4"}
    assert sum(map(int, counts(page, "price").values())) == 8
    assert page.evaluate("document.activeElement.type") == "checkbox", "the focus stays"

    label, count = next((k, v) for k, v in counts(page, "price").items() if v != "0")
    page.locator(".range", has_text=label).click()
    page.get_by_role("button", name=f"Remove the filter price: {label}").wait_for()
    page.get_by_text(f"{count} pictures that pass the filter").wait_for()
    link = page.url
    page.get_by_label("price, least").fill("30")
    page.get_by_label("price, most").fill("65")
    page.keyboard.press("Enter")
    page.get_by_text("All 4 pictures that pass the filter").wait_for()
    both = "brand == 'Nordvik' and price >= 30 and price <= 65"
    assert shown(page) == found(client, "red", filter=both)

    page.go_back()
    page.go_back()
    page.get_by_text(f"{count} pictures that pass the filter").wait_for()
    assert page.url == link
    page.get_by_role("button", name="Clear all").click()
    page.get_by_text("All 12 pictures for “red”").wait_for()
    assert page.problems == []


def test_an_address_holds_all_that_is_chosen_and_makes_the_filter(
    page: Any, server: Server
) -> None:
    """For any text as a tag's name or value: read again it is the same, and so is the filter."""
    page.goto(server.http)
    values = [
        "Nordvik",
        "42",
        42,
        0.5,
        1e-9,
        True,
        "true",
        '"',
        "\\",
        "null",
        "",
        " a ",
        "a`b",
        "é\n\u2028",
    ]
    tags = ["brand", "a.b", "`", "__proto__", "from.x", "$id", "tags__x", "in", "ü &=?#%", HOSTILE]
    made = page.evaluate(
        """async ([tags, values]) => {
          const main = document.querySelector("script[src]").src;
          const s = await import(main.replace("main.js", "state.js"));
          let state = s.asking({ q: "a & b", filter: "x == 1 or y == 2", weight: 4, fit: 0.5 });
          for (const tag of tags) {
            for (const value of values) state = s.choose(state, tag, value, true);
          }
          state = s.limit(state, "price", { from: -1e-7, below: 50.5 });
          const read = s.fromAddress(s.toAddress(state));
          const same = s.toAddress(state) === s.toAddress(read.state);
          return [same, read.problems, s.filterOf(read.state)];
        }""",
        [tags, values],
    )
    assert made[:2] == [True, []]
    asked = parse_filter("x == 1 or y == 2")
    chosen = [
        In(Field(tag), tuple(float(v) if type(v) is int else v for v in values)) for tag in tags
    ]
    price = (Compare(Field("price"), ">=", -1e-7), Compare(Field("price"), "<", 50.5))
    assert parse_filter(made[2]) == And((asked, *chosen, *price))


def test_what_others_wrote_stays_text(page: Any, server: Server, client: Client) -> None:
    many = DocList[ClipDoc](
        ClipDoc(
            id=f"item-{i}",
            text="huge " * 2000,
            image=picture(i),
            tags={"many": [f"value {n}" for n in range(900 * i, 900 * i + 900)]},
        )
        for i in range(4)
    )
    client.index(many)
    page.goto(f"{server.http}/?q=red&is.many=value+7&is.__proto__=x&from.price=abc")
    page.get_by_text("Nothing found").wait_for()
    page.get_by_role("button", name="Remove the filter proto: x").click()
    page.get_by_text("The only picture that passes the filter").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".card").bounding_box()["height"] < 500
    page.get_by_role("button", name="Show all 1,000").click()
    page.get_by_text("The most frequent 1,000 of 3,600").wait_for()
    page.get_by_label("Find a value of many").fill("value 999")
    page.locator(".card").click()
    assert page.locator("#dialog").bounding_box()["height"] <= 900
    page.keyboard.press("Escape")

    page.goto(f"{server.http}/?q=red&from.price=abc")
    page.get_by_text("“abc”, which is no number it can be").wait_for()
    for tag, value in ((HOSTILE, "one"), ("brand", HOSTILE)):
        page.goto(f"{server.http}/?q=red")
        page.locator("#facets .value", has_text=value).first.click()
        page.locator("#chosen .chip").wait_for()
        page.get_by_text("that pass the filter for").wait_for()
        assert shown(page) == found(client, "red", filter={tag: value})
    page.locator(".card").first.click()  # a tag's value is a filter there
    page.locator("#dialog dd button", has_text=re.compile("^(one|two)$")).click()
    page.locator("#chosen .chip").nth(1).wait_for()
    assert page.evaluate("window.hacked") is None
    assert page.problems == []


def test_a_product_is_shown_once_and_opened(page: Any, server: Server, client: Client) -> None:
    page.goto(f"{server.http}/?q=red")
    page.locator("#group").select_option("product")
    page.get_by_text("4 of 4, one per product, of 12 pictures for “red”").wait_for()
    assert shown(page) == found(client, "red", group_by="product")
    assert page.locator(".rest").all_inner_texts() == ["2 more"] * 4
    assert page.locator("#words").is_disabled()
    product = client.search("red", group_by="product").matches[0].tags["product"]
    page.locator(".rest").first.click()
    page.get_by_text("All 3 pictures that pass the filter").wait_for()
    assert shown(page) == found(client, "red", filter={"product": product})
    page.go_back()
    page.get_by_text("4 of 4, one per product").wait_for()

    page.locator("#group").select_option("")
    page.locator("#sort").select_option("price desc")
    page.get_by_text("pictures for “red”, in order").wait_for()
    assert shown(page) == [f"Leather boots number {i}" for i in reversed(range(12))]
    page.locator("#sort").select_option(label="Varied")
    page.wait_for_url("**sort=%3Avaried**")
    page.get_by_text("12 pictures for “red” in").wait_for()
    assert shown(page) == found(client, "red", diversity=0.3)
    assert page.problems == []


def test_like_this_one_but_in_other_words(page: Any, server: Server, client: Client) -> None:
    page.goto(f"{server.http}/?q=red")
    page.locator(".card").nth(1).click()
    title = page.locator("#dialog-title").inner_text()
    identity = next(str(doc.id) for doc in stock() if doc.text == title)
    page.locator("#like").click()
    page.get_by_text(f"for like “{title}”").wait_for()
    assert shown(page) == found(client, None, like=identity)
    page.fill("#query", "green")
    page.press("#query", "Enter")
    page.get_by_text(f"for “green” and like “{title}”").wait_for()

    def parts(weight: float) -> QueryDoc:
        text = QueryPart(text="green", weight=weight)
        return QueryDoc(parts=DocList[QueryPart]([QueryPart(like=identity), text]))

    assert shown(page) == found(client, parts(2))
    page.locator("#weight").focus()
    page.keyboard.press("End")
    page.wait_for_url("**weight=8**")
    page.reload()  # a shared link
    page.get_by_text(f"for “green” and like “{title}”").wait_for()
    assert shown(page) == found(client, parts(8))
    page.get_by_role("button", name="Remove the picture").click()
    page.get_by_text("All 12 pictures for “green”").wait_for()
    assert page.problems == []


def test_a_picture_and_words(page: Any, server: Server, client: Client) -> None:
    page.goto(f"{server.http}/?q=red")
    page.wait_for_selector(".card")
    file = {"name": "mine.png", "mimeType": "image/png", "buffer": picture(7)}
    page.set_input_files("#file", files=[file])
    page.get_by_text("for “red” and your picture").wait_for()
    parts = [QueryPart(image=picture(7)), QueryPart(text="red", weight=2)]
    assert shown(page) == found(client, QueryDoc(parts=DocList[QueryPart](parts)))
    page.go_back()
    page.get_by_text("All 12 pictures for “red”").wait_for()
    page.go_forward()
    page.get_by_text("for “red” and your picture").wait_for()
    page.reload()  # no link has the picture
    page.get_by_text("The picture isn't in the link").wait_for()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose another picture").click()
    chooser.value.set_files(files=[file])
    page.get_by_text("for “red” and your picture").wait_for()
    assert page.problems == []


def test_only_what_the_service_can_do_is_offered(page: Any, server: Server, client: Client) -> None:
    assert client.status()["index"]["words"] is True
    page.goto(f"{server.http}/?q=Nordvik&words=1")
    page.get_by_label("Find the words").wait_for()
    page.wait_for_selector(".card")
    assert shown(page) == found(client, "Nordvik", hybrid=True)
    assert page.get_by_label("Only what fits").is_hidden()

    def without_words(route: Any) -> None:
        told = route.fetch().json()
        told["index"]["words"] = False
        told["model"]["calibrated"] = True
        route.fulfill(json=told)

    page.route("**/status", without_words)
    page.goto(f"{server.http}/?q=red")
    page.get_by_label("Only what fits").wait_for()
    assert page.get_by_label("Find the words").is_hidden()
    # Nobody has calibrated this model: the service says so, and the page a way on.
    with page.expect_request("**/search") as asked:
        page.get_by_label("Only what fits").check()
    assert asked.value.post_data_json["parameters"]["min_relevance"] == 0.5
    page.get_by_text("is not calibrated").wait_for()
    page.get_by_role("button", name="Search without filters and options").click()
    page.get_by_text("All 12 pictures").wait_for()

    nothing = {"data": [{"matches": [], "total": 12}], "warnings": []}
    page.route("**/search", lambda route: route.fulfill(json=nothing))
    page.goto(f"{server.http}/?q=red&fit=0.5")
    page.get_by_text("Nothing that fits").wait_for()
    page.unroute("**/search")
    page.get_by_role("button", name="Show the nearest anyway").click()
    page.get_by_text("All 12 pictures").wait_for()


def test_an_older_answer_never_covers_a_newer_one(page: Any, server: Server) -> None:
    page.goto(f"{server.http}/?q=red")
    page.wait_for_selector(".card")

    def hold(route: Any) -> None:
        if json.loads(route.request.post_data)["data"] != [{"text": "slow"}]:
            route.continue_()

    page.route("**/search", hold)
    page.fill("#query", "slow")
    with page.expect_request(lambda request: "slow" in (request.post_data or "")):
        page.press("#query", "Enter")
    page.fill("#query", "quick")
    with page.expect_event("requestfailed") as aborted:
        page.press("#query", "Enter")
    assert "slow" in aborted.value.post_data
    page.get_by_text("12 pictures for “quick”").wait_for()
    assert page.problems == []


def test_a_word_that_is_spelt_otherwise_is_asked_about(page: Any, server: Server) -> None:
    page.goto(f"{server.http}/?q=Lether+bootz+in+red")
    page.get_by_text("Did you mean").wait_for()
    page.get_by_role("button", name="leather boots in red").click()
    page.get_by_text("12 pictures for “leather boots in red”").wait_for()
    assert page.locator("#meant").is_hidden()


def test_what_is_opened_is_told_to_a_server_that_records(
    page: Any, server: Server, client: Client
) -> None:
    def records(kind: str) -> list[dict[str, Any]]:
        lines = "".join(path.read_text() for path in server.searches.glob("*.jsonl")).splitlines()
        return [one for one in map(json.loads, lines) if one["kind"] == kind]

    page.goto(server.http)
    page.wait_for_selector(".card")
    page.fill("#query", "recorded boots")
    page.press("#query", "Enter")
    page.get_by_text("for “recorded boots”").wait_for()
    with page.expect_response("**/feedback") as told:
        page.locator(".card").first.click()
    assert told.value.json()["recorded"] == 1
    best = client.search("recorded boots", record=False).matches[0].id
    [search] = wait_until(lambda: [
        one for one in records("search") if one["query"] == [{"text": "recorded boots"}]
    ])  # fmt: skip
    wait_until(lambda: [
        one for one in records("feedback")
        if one["search"] == search["id"] and (one["event"], one["ids"]) == ("click", [best])
    ])  # fmt: skip
    # What the page asks by itself is nobody's search.
    assert not [one for one in records("search") if one["query"] == [{"text": "a photo"}]]


def violations(page: Any) -> list[str]:
    """What axe-core finds, by rule and place."""
    answer = Axe().run(page, options={"resultTypes": ["violations"]}).response
    return [
        f"{broken['id']}: {node['html'][:120]}"
        for broken in answer["violations"]
        for node in broken["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_for_everyone(browser: Any, server: Server, client: Client, scheme: str) -> None:
    """Without what axe-core knows for a barrier, at a desk and on a phone."""
    context = browser.new_context(
        viewport={"width": 1200, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.goto(server.http)
    page.get_by_label("Nordvik").wait_for()
    page.wait_for_selector("#examples button")
    assert violations(page) == []
    page.goto(f"{server.http}/?q=lether&group=product&is.brand=Nordvik&filter=price+%3C+1000")
    page.get_by_text("3 of 3, one per product").wait_for()
    page.wait_for_selector(".facet .chosen")
    assert violations(page) == []
    page.locator(".card").first.click()
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.goto(f"{server.http}/?q=red&filter=price+%3C")
    page.wait_for_selector("#state.error")
    assert violations(page) == []
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{server.http}/?q=red")
    page.wait_for_selector(".card")
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("checkbox", name="Nordvik").check()
    page.wait_for_selector("#sheet .facet .chosen")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert violations(page) == []
    page.get_by_role("button", name="Show the results").click()
    page.get_by_text("All 8 pictures that pass the filter").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert violations(page) == []
    context.close()
