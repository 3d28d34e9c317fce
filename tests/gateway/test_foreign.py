"""Others' interfaces, asked by their own clients: the answers are those of /encode and /rank."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import cohere
import httpx
import numpy as np
import openai
import pytest
import requests
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai import OpenAIEmbedding

from cliptune.documents import RankDoc, RankMatch
from cliptune.serving import Client
from tests.pictures import base64_of, picture
from tests.server import Server

pytestmark = pytest.mark.e2e
TEXTS = ["red rain boots", "a blue hat", "ein grüner Schirm ☂"]
PICTURES = [picture(1), picture(2)]
URIS = [f"data:image/png;base64,{base64_of(one)}" for one in PICTURES]


def encoded(server: Server, items: list[Any]) -> np.ndarray:
    """What the service's own call gives."""
    with Client(server.grpc, timeout=60) as client:
        return np.asarray(client.encode(items))


def rows(answer: Any) -> np.ndarray:
    """The embeddings of an answer of OpenAI's client."""
    assert [one.index for one in answer.data] == list(range(len(answer.data)))
    return np.array([one.embedding for one in answer.data], np.float32)


def same(found: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=1e-6)


@pytest.fixture
def ai(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """For clients that don't close their own."""
    with httpx.Client(timeout=60) as found:
        yield found


def test_openai(server: Server, ai: openai.OpenAI) -> None:
    [model] = ai.models.list().data
    assert model.owned_by == "cliptune"
    with Client(server.grpc) as client:
        tower = client.status()["model"]
    assert (model.digest, model.dimensions) == (tower["model_digest"], tower["output_dim"])
    expected = encoded(server, TEXTS)
    # Its default is base64; all names of the model are the model.
    for name in (model.id, model.digest, "cliptune"):
        answer = ai.embeddings.create(model=name, input=TEXTS, dimensions=model.dimensions)
        same(rows(answer), expected)
        assert answer.model == model.id
    answer = ai.embeddings.create(model=model.id, input=TEXTS[0], encoding_format="float")
    same(rows(answer), expected[:1])
    from cliptune.models.loading import load_model
    from cliptune.models.tokenizers import token_count

    tokenizer = load_model(server.model).tokenizer
    usage = ai.embeddings.create(model=model.id, input=TEXTS).usage
    assert usage.prompt_tokens == sum(token_count(tokenizer, text) for text in TEXTS)
    assert usage.total_tokens == usage.prompt_tokens


def test_openai_on_an_event_loop(server: Server) -> None:
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{server.http}/v1", api_key="none") as ai:
            asked = [ai.embeddings.create(model="cliptune", input=text) for text in TEXTS * 5]
            return await asyncio.gather(*asked)

    found = np.concatenate([rows(answer) for answer in asyncio.run(ask())])
    same(found, np.tile(encoded(server, TEXTS), (5, 1)))


def test_pictures_in_each_form(server: Server, ai: openai.OpenAI) -> None:
    expected = encoded(server, PICTURES)
    infinity = ai.embeddings.create(model="cliptune", input=URIS, extra_body={"modality": "image"})
    same(rows(infinity), expected)
    assert infinity.usage.total_tokens == 0
    bare = ai.embeddings.create(
        model="cliptune", input=[base64_of(PICTURES[0])], extra_body={"modality": "image"}
    )
    same(rows(bare), expected[:1])
    jina = ai.embeddings.create(
        model="cliptune", input=[{"image": URIS[1]}, {"text": TEXTS[0]}, URIS[0]]
    )
    same(rows(jina), np.stack([expected[1], encoded(server, TEXTS)[0], expected[0]]))

    def vllm(*content: dict[str, Any]) -> Any:
        # As vLLM's examples have it: OpenAI's client knows no messages here.
        return ai.post(
            "/embeddings",
            cast_to=openai.types.CreateEmbeddingResponse,
            body={"model": "cliptune", "messages": [{"role": "user", "content": content}]},
        )

    shown = {"type": "image_url", "image_url": {"url": URIS[0]}}
    same(rows(vllm(shown)), expected[:1])
    same(rows(vllm(shown, {"type": "text", "text": " "})), expected[:1])
    same(rows(vllm({"type": "text", "text": TEXTS[1]})), encoded(server, TEXTS)[1:2])
    with pytest.raises(openai.BadRequestError, match="1 texts and 1 pictures"):
        vllm(shown, {"type": "text", "text": "describe it"})


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("asks", ["text", "picture"])
def test_cohere(
    server: Server, clients: list[Client], http: httpx.Client, version: str, asks: str
) -> None:
    kind = cohere.Client if version == "1" else cohere.ClientV2
    query = {"text": TEXTS[0], "picture": URIS[1]}[asks]
    documents = [TEXTS[1], URIS[0], "boots", URIS[1]]
    answer = kind(api_key="none", base_url=server.http, httpx_client=http).rerank(
        model="cliptune", query=query, documents=documents, top_n=3
    )
    given = [RankMatch(id="0", text=TEXTS[1]), RankMatch(id="1", image=PICTURES[0])]
    given += [RankMatch(id="2", text="boots"), RankMatch(id="3", image=PICTURES[1])]
    asked = {"text": RankDoc(text=TEXTS[0]), "picture": RankDoc(image=PICTURES[1])}[asks]
    asked.matches.extend(given)
    ranked = clients[0].rank([asked])
    assert ranked is not None
    best = ranked[0].matches[:3]
    assert [one.index for one in answer.results] == [int(match.id) for match in best]
    scores = [one.relevance_score for one in answer.results]
    same(scores, np.array([match.clip_score_cosine for match in best]))
    assert scores == sorted(scores, reverse=True)


def test_reranking_in_jinas_form(server: Server, http: httpx.Client) -> None:
    body = {
        "model": "cliptune",
        "query": {"text": "boots"},
        "documents": ["a hat", {"text": "boots"}, {"image": URIS[0]}],
        "return_documents": True,
    }
    answers = [requests.post(f"{server.http}{at}", json=body, timeout=60).json() for at in
               ("/rerank", "/v1/rerank", "/v2/rerank")]  # fmt: skip
    results = answers[0]["results"]
    assert [answer["results"] for answer in answers] == [results] * 3
    assert results[0]["document"] == {"text": "boots"}
    assert results[0]["relevance_score"] == pytest.approx(1, abs=1e-5)
    assert {"image": URIS[0]} in [one["document"] for one in results]
    assert answers[0]["usage"]["total_tokens"] > 0
    with_cohere = cohere.Client(api_key="none", base_url=server.http, httpx_client=http).rerank(
        query="boots", documents=["a hat", {"text": "boots"}], return_documents=True
    )
    assert with_cohere.results[0].document.text == "boots"


def test_langchain(server: Server, http: httpx.Client) -> None:
    def model(**clients: Any) -> OpenAIEmbeddings:
        return OpenAIEmbeddings(
            model="cliptune",
            base_url=f"{server.http}/v1",
            api_key="none",
            check_embedding_ctx_length=False,
            chunk_size=2,
            http_client=http,
            **clients,
        )

    async def on_a_loop() -> list[list[float]]:
        async with httpx.AsyncClient() as ahttp:
            return await model(http_async_client=ahttp).aembed_documents(TEXTS)

    expected = encoded(server, TEXTS)
    same(model().embed_documents(TEXTS), expected)
    same(model().embed_query(TEXTS[0]), expected[0])
    same(asyncio.run(on_a_loop()), expected)


def test_llama_index(server: Server, http: httpx.Client) -> None:
    def model(**clients: Any) -> OpenAIEmbedding:
        return OpenAIEmbedding(
            model_name="cliptune",
            api_base=f"{server.http}/v1",
            api_key="none",
            embed_batch_size=2,
            http_client=http,
            **clients,
        )

    async def on_a_loop() -> list[float]:
        async with httpx.AsyncClient() as ahttp:
            return await model(async_http_client=ahttp).aget_text_embedding(TEXTS[1])

    expected = encoded(server, TEXTS)
    same(model().get_text_embedding_batch(TEXTS), expected)
    same(model().get_query_embedding(TEXTS[0]), expected[0])
    same(asyncio.run(on_a_loop()), expected[1])


EMBED, RERANK = "/v1/embeddings", "/v1/rerank"


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "words"),
    [
        (EMBED, {"model": "ada", "input": "a"}, 404, "model", "'ada' is not served: ask for"),
        (EMBED, {"model": 3, "input": "a"}, 400, "model", "valid string, got 3"),
        (EMBED, {}, 400, "input", "either input or messages"),
        (EMBED, [], 400, "input", "must be a JSON object"),
        (EMBED, {"input": []}, 400, "input", "input is empty"),
        (EMBED, {"input": "  "}, 400, "input", r"input\[0\] is empty"),
        (EMBED, {"input": ["a", None]}, 400, "input", "input.1: expected a text"),
        (EMBED, {"input": [[1, 2], [3]]}, 400, "input", "check_embedding_ctx_length=False"),
        (EMBED, {"input": [1, 2]}, 400, "input", "tokens"),
        (EMBED, {"input": "a", "colour": 1}, 400, "colour", "colour is unknown; there are model"),
        (EMBED, {"input": "a", "dimensions": 7}, 400, "dimensions", "have 32"),
        (EMBED, {"input": "a", "dimensions": True}, 400, "dimensions", "dimensions"),
        (EMBED, {"input": "a", "encoding_format": "hex"}, 400, "encoding_format", "'base64'"),
        (EMBED, {"input": "a", "modality": "audio"}, 400, "modality", "'text' or 'image'"),
        (EMBED, {"input": ["a"] * 10_000}, 413, "input", "10000 documents .* limit is 256"),
        (EMBED, {"input": "a" * 200_000}, 413, "input", "200000 characters, the limit is 100000"),
        (EMBED, {"input": "data:image/png;base64,AAAA"}, 400, "input", r"input\[0\].*not a pict"),
        (EMBED, {"input": ["é!"], "modality": "image"}, 400, "input", r"input\[0\].*not base64"),
        (EMBED, {"input": [{"image": "http://127.0.0.1:1/a.png"}]}, 400, "input", "never fetched"),
        (EMBED, {"input": [{"image": "file:///etc/passwd"}]}, 400, "input", "are not read"),
        (EMBED, {"input": [{"text": "a", "image": "b"}]}, 400, "input", "either a text or an im"),
        (EMBED, {"messages": []}, 400, "messages", "0 texts and 0 pictures"),
        (RERANK, {"query": "a"}, 400, "documents", "documents: Field required"),
        (RERANK, {"query": "a", "documents": []}, 400, "documents", "documents is empty"),
        (RERANK, {"query": "", "documents": ["a"]}, 400, "query", "query is empty"),
        (RERANK, {"query": "a", "documents": "b"}, 400, "documents", "valid list"),
        (RERANK, {"query": "a", "documents": ["b"], "top_n": 0}, 400, "top_n", "greater than"),
        (RERANK, {"query": "a", "documents": ["b"] * 256}, 413, "documents", "257 documents, with"),
        (RERANK, {"query": "a", "documents": [{"image": URIS[0][:99]}]}, 400, "documents",
         r"documents\[0\]"),
    ],
)  # fmt: skip
def test_bad_requests(
    server: Server, path: str, body: Any, status: int, param: str | None, words: str
) -> None:
    answer = requests.post(server.http + path, data=json.dumps(body), timeout=60)
    refused(answer, status, words, param)


def refused(answer: requests.Response, status: int, words: str, param: str | None = None) -> None:
    import re

    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert re.search(words, error["message"]), error["message"]
    assert "Traceback" not in error["message"]


@pytest.mark.parametrize(
    ("send", "status", "words"),
    [
        (lambda url: requests.post(url, data='{"input": NaN}', timeout=60), 400, "not JSON"),
        (lambda url: requests.post(url, data="", timeout=60), 400, "the body is empty"),
        (lambda url: requests.get(url, timeout=60), 405, "use POST"),
        (lambda url: requests.post(url + "?a=1", json={}, timeout=60), 400, "'a' is unknown"),
        (
            lambda url: requests.post(
                url, json={"input": "data:image/png;base64," + "A" * 70_000_000}, timeout=120
            ),
            413,
            "larger than the limit",
        ),
        (
            lambda url: requests.post(url, json={}, headers={"Content-Encoding": "br"}, timeout=60),
            415,
            "use gzip or deflate",
        ),
    ],
    ids=["nan", "empty", "get", "query", "huge", "coding"],
)
def test_what_never_is_a_request(
    server: Server, send: Callable[[str], requests.Response], status: int, words: str
) -> None:
    refused(send(server.http + EMBED), status, words)


def test_errors_are_those_that_clients_know(
    ai: openai.OpenAI, server: Server, http: httpx.Client
) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        ai.embeddings.create(model="text-embedding-3-small", input="a")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        ai.embeddings.create(model="cliptune", input="")
    assert (bad.value.param, bad.value.code) == ("input", "BadInput")
    with pytest.raises(cohere.BadRequestError, match="query is empty"):
        cohere.ClientV2(api_key="none", base_url=server.http, httpx_client=http).rerank(
            model="cliptune", query=" ", documents=["a"]
        )


def test_they_are_described_and_counted(server: Server) -> None:
    described = requests.get(f"{server.http}/openapi.json", timeout=60).json()["paths"]
    for path in (EMBED, "/rerank", RERANK, "/v2/rerank"):
        content = described[path]["post"]["requestBody"]["content"]["application/json"]
        assert content["schema"]["properties"]["model"]["default"] == "cliptune"
        answer = requests.post(server.http + path, json=example(content["example"]), timeout=60)
        assert answer.status_code == 200, answer.text
        told = described[path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert answer.json().keys() == told["properties"].keys()
    figures = requests.get(f"{server.http}/metrics", timeout=60).text
    for path in (EMBED, "/rerank"):
        assert f'cliptune_requests_total{{endpoint="{path}",protocol="http",status="200"' in figures


def example(body: object) -> Any:
    """An example with a picture in place of its ellipsis."""
    return json.loads(json.dumps(body).replace("data:image/png;base64,\\u2026", URIS[0]))


def test_base64_is_little_endian_float32(server: Server) -> None:
    body = {"input": TEXTS[0], "encoding_format": "base64"}
    answer = requests.post(server.http + EMBED, json=body, timeout=60).json()
    numbers = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    same(numbers, encoded(server, TEXTS)[0])
