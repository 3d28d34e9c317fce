"""HTTP requests that nobody would send: from our OpenAPI by schemathesis, and mutated ones."""

from __future__ import annotations

import json
import random
import warnings
from contextlib import suppress
from typing import Any

import hypothesis
import orjson
import requests
import schemathesis
from schemathesis.generation import GenerationMode

from cliptune.protocol.endpoints import FOREIGN
from tests.fuzz.outcomes import Outcomes
from tests.pictures import base64_of, picture

TIMEOUT = 120
HOSTILE: list[Any] = [
    None, True, 0, -1, 2**31, 2**63, 2**64, 10**300, 1e308, 5e-324, "", " ", "\0", "a" * 200_000,
    "\ud800", "‮", "../../etc/passwd", "file:///etc/passwd", "http://127.0.0.1/", "data:,",
    "data:image/png;base64,AAAA", "'; drop table", "__proto__", "%00", [], {}, [[]], {"": None},
    [None] * 300, {"a": [{"b": 1}] * 40}, {str(i): i for i in range(500)}, {"$ref": "#"},
]  # fmt: skip
PATHS = (
    "/encode", "/index", "/search", "/get", "/ids", "/delete", "/post", "/status", "/rank",
    "/update", "/tags", *FOREIGN,
)  # fmt: skip


def note(outcomes: Outcomes, response: requests.Response, sent: bytes) -> None:
    """Count an answer, and look whether it is one that we would give on purpose."""
    problem = ""
    body = response.content[:100_000]
    if b"Traceback" in body or b'File "/' in body:
        problem = f"a traceback: {body[:300]!r}"
    elif response.status_code >= 500:
        problem = f"{body[:300]!r}"
    elif response.status_code >= 400 and response.request.method != "HEAD":
        try:
            error = orjson.loads(response.content)["error"]
            assert error["type"]
            assert error["message"]
        except Exception:
            problem = f"no error in JSON: {body[:300]!r}"
    outcomes.note(f"HTTP {response.status_code}", problem, sent)


def by_schema(address: str, outcomes: Outcomes, count: int, seed: int) -> None:
    """About `count` requests that fit our OpenAPI, or just don't."""
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    each = max(1, count // (len(operations) * len(modes)))
    session = requests.Session()
    for operation in operations:
        for mode in modes:
            _send(session, operation, mode, outcomes, each, seed)


def _send(
    session: requests.Session,
    operation: Any,
    mode: GenerationMode,
    outcomes: Outcomes,
    count: int,
    seed: int,
) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def call(case: Any) -> None:
        options = case.as_transport_kwargs()
        try:
            response = session.request(**options, timeout=TIMEOUT, allow_redirects=False)
        except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL, UnicodeError):
            return  # such a request can't be sent
        note(outcomes, response, repr(options).encode())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # An operation without parameters can't be called wrongly.
        with suppress(hypothesis.errors.Unsatisfiable):
            call()


def mutated(address: str, outcomes: Outcomes, count: int, seed: int) -> None:
    """`count` good requests with something wrong in them: in the bytes, in the values, in how."""
    rng = random.Random(seed)
    session = requests.Session()
    for _ in range(count):
        body = mutate_values(rng, good_body(rng))
        raw = json.dumps(body).encode()
        if rng.random() < 0.5:
            raw = mutate_bytes(rng, raw)
        headers = {"Content-Type": rng.choice(["application/json", "text/plain", "x", ""])}
        if rng.random() < 0.05:
            headers["Content-Encoding"] = "gzip"
        if rng.random() < 0.05:
            headers["Origin"] = rng.choice(["null", "http://[", "https://evil.example"])
        method = rng.choice(["POST"] * 9 + ["PUT", "GET", "DELETE", "HEAD", "PATCH", "OPTIONS"])
        path = rng.choice(PATHS)
        if rng.random() < 0.1:
            path = f"/pictures/{'%' if rng.random() < 0.3 else ''}{rng.randbytes(4).hex()}%00%2f.."
        response = session.request(
            method, address + path, data=raw, headers=headers, timeout=TIMEOUT
        )
        note(outcomes, response, f"{method} {path} {headers} ".encode() + raw)


def foreign_body(rng: random.Random) -> dict[str, Any]:
    """One in the form of others' interfaces."""
    uri = f"data:image/png;base64,{base64_of(picture(rng.randrange(20), (20, 16)))}"
    one = rng.choice(["red", {"text": "größer"}, uri, {"image": uri}])
    shown = {"type": "image_url", "image_url": {"url": uri}}
    return rng.choice(
        [
            {"model": "cliptune", "input": [one, "red"], "encoding_format": "base64"},
            {"input": uri, "modality": "image", "dimensions": None},
            {"messages": [{"role": "user", "content": [shown]}]},
            {"query": one, "documents": ["red", one], "top_n": 1, "return_documents": True},
        ]
    )


def good_body(rng: random.Random) -> dict[str, Any]:
    """A body that some endpoint would take."""
    if rng.random() < 0.3:
        return foreign_body(rng)
    item: dict[str, Any] = {"id": f"fuzz-{rng.randrange(50)}"}
    if rng.random() < 0.6:
        item["text"] = rng.choice(["red", "größer", "a" * 500, "衣服", "  "])
    if rng.random() < 0.6:
        item[rng.choice(["image", "blob"])] = base64_of(picture(rng.randrange(20), (20, 16)))
    if rng.random() < 0.5:
        item["tags"] = {"price": rng.random() * 100, "ean": 4_006_381_333_931, "n": {"a": [1]}}
    body: dict[str, Any] = {"data": [dict(item) for _ in range(rng.choice([0, 1, 1, 2, 5]))]}
    if rng.random() < 0.5:
        body["parameters"] = {"limit": rng.choice([1, 5, 1000]), "filter": rng.choice(FILTERS)}
    if rng.random() < 0.3:
        body["execEndpoint"] = rng.choice((*PATHS, "/", "/clear"))
    if rng.random() < 0.3:
        body = {"ids": [item["id"]], "filter": rng.choice(FILTERS)}
    return body


FILTERS = ["price < 30", "price <", "n.a == 1", "a == 'x' and not (b > 1)", "((((", "x in [1,2]",
           "\0", "price < 1e999", "not " * 200 + "a", "(" * 500, "colour like '%'",
           {"price": {"$lt": 3}}, {"$and": [{}]}, {"a": {"$in": []}}, "a" * 5000]  # fmt: skip


def mutate_values(rng: random.Random, value: Any) -> Any:
    """The value with some of its parts replaced by hostile ones."""
    if rng.random() < 0.06:
        return rng.choice(HOSTILE)
    if isinstance(value, dict):
        found = {k: mutate_values(rng, v) for k, v in value.items()}
        if rng.random() < 0.05:
            found[str(rng.choice(HOSTILE))[:50]] = rng.choice(HOSTILE)
        return found
    if isinstance(value, list):
        return [mutate_values(rng, v) for v in value]
    return value


def mutate_bytes(rng: random.Random, raw: bytes) -> bytes:
    """The bytes with some flipped, cut out, doubled or put in."""
    data = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(data) + 1) if data else 0
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at] = rng.randbytes(rng.choice([1, 2, 8, 64]))
        elif kind == 2:
            del data[at : at + rng.choice([1, 4, 50])]
        elif kind == 3:
            data[at:at] = data[at : at + rng.choice([1, 8, 100])]
        else:
            del data[at:]
    return bytes(data)
