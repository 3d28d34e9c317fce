"""A search Flow with TLS, API keys, CORS, allowed URIs and a short queue, as strangers meet it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest
import requests
import trustme
import websockets
from docarray import DocList
from jina.proto import jina_pb2_grpc
from jina.types.request.data import DataRequest

from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, Forbidden, Overloaded, RateLimited, Unauthorized, Unavailable
from cliptune.gateway.access.api_keys import make_key
from cliptune.gateway.clip_service import clip_service_pb2
from cliptune.serving import Client, serve
from tests.pictures import COLOURS, base64_of, picture, shop
from tests.ports import free_ports
from tests.server import data_request

pytestmark = pytest.mark.e2e
SITE = "https://shop.example"
PENDING = 8


@dataclass
class Secure:
    """Where the Flow is, and what opens it."""

    grpc: str
    http: str
    clip_service: str
    ca: str
    keys: Path
    pictures: Path
    authority: trustme.CA

    def renew(self, certificate: trustme.LeafCert) -> None:
        """Put another certificate in the place of the server's."""
        home = self.keys.parent
        certificate.private_key_pem.write_to_path(str(home / "key.new"))
        chain = b"".join(part.bytes() for part in certificate.cert_chain_pems)
        (home / "cert.new").write_bytes(chain)
        for name in ("key", "cert"):
            (home / f"{name}.new").replace(home / f"{name}.pem")

    def serials(self) -> set[str]:
        """Of the certificates that the three ports show."""
        context = ssl.create_default_context(cafile=self.ca)
        found = set()
        for address in (self.grpc, self.http, self.clip_service):
            port = int(address.rpartition(":")[2])
            with (
                socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
            ):
                found.add(str((secured.getpeercert() or {})["serialNumber"]))
        return found

    def client(self, protocol: str, key: str | None) -> Client:
        return Client(getattr(self, protocol), timeout=60, api_key=key, ca_file=self.ca)

    def ask(self, method: str, path: str, key: str | None = None, **options) -> requests.Response:
        headers = options.pop("headers", {})
        if key:
            headers["Authorization"] = f"Bearer {key}"
        url = self.http + path
        return requests.request(method, url, headers=headers, verify=self.ca, timeout=60, **options)


def write_keys(path: Path, **more: str) -> None:
    lines = [make_key(role, f"{role}-name", role) for role in ("search", "write", "admin")]
    lines.append(make_key("slow", "slow", "search", requests=0.01))
    lines += [make_key(key, name) for name, key in more.items()]
    path.write_text("".join(f"{line.line()}\n" for line in lines))


@pytest.fixture(scope="module")
def secure(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    home = tmp_path_factory.mktemp("secure")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(home / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(home / "key.pem"))
    for part in certificate.cert_chain_pems:
        part.write_to_path(str(home / "cert.pem"), append=True)
    write_keys(home / "keys")
    pictures = home / "pictures"
    pictures.mkdir()
    grpc_port, http_port, clip_port = free_ports(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPTUNE_HOME", str(home))
        patch.setenv("CLIPTUNE_CORS_ORIGINS", SITE)
        patch.setenv("CLIPTUNE_ALLOW_URIS", f"file://{pictures}/,http://127.0.0.1:1/")
        patch.setenv("CLIPTUNE_MAX_PENDING", str(PENDING))
        with serve(
            tiny_model,
            index=home / "index",
            grpc_port=grpc_port,
            http_port=http_port,
            clip_service_port=clip_port,
            ssl_certfile=home / "cert.pem",
            ssl_keyfile=home / "key.pem",
            api_keys=home / "keys",
        ):
            yield Secure(
                f"grpcs://127.0.0.1:{grpc_port}",
                f"https://127.0.0.1:{http_port}",
                f"127.0.0.1:{clip_port}",
                str(home / "ca.pem"),
                home / "keys",
                pictures,
                authority,
            )


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_who_may_do_what(secure: Secure, protocol: str) -> None:
    search, write, admin = (secure.client(protocol, k) for k in ("search", "write", "admin"))
    admin.clear()
    assert write.index(shop()) == 6
    assert search.search("red", limit=2).matches[0].id
    for call in (lambda: search.index(shop()), lambda: search.delete("a"), lambda: write.clear()):
        with pytest.raises(Forbidden, match="role"):
            call()
    for key in (None, "wrong", "Bearer"):
        with pytest.raises(Unauthorized, match="API key"):
            secure.client(protocol, key).search("red")
    assert search.status()["documents"] == 6
    with suppress(RateLimited):
        secure.client(protocol, "slow").encode(["a"])
    with pytest.raises(RateLimited, match=r"0.01 requests a second"):
        secure.client(protocol, "slow").encode(["a"])


def test_tls_is_needed_and_checked(secure: Secure) -> None:
    for address in (secure.grpc, secure.http):
        with pytest.raises(Unavailable):
            Client(address, timeout=10, api_key="search").encode(["a"])  # an unknown authority
        plain = address.replace("grpcs", "grpc").replace("https", "http")
        with pytest.raises(Unavailable):
            Client(plain, timeout=10, api_key="search").encode(["a"])


def test_a_certificate_is_renewed_while_the_server_runs(secure: Secure) -> None:
    [before] = secure.serials()
    asking = secure.client("grpc", "search")
    asking.search("red", limit=1)
    secure.renew(secure.authority.issue_cert("127.0.0.1", "localhost"))
    [after] = secure.serials()
    assert after != before
    asking.search("red", limit=1)  # over the connection from before
    # What is no certificate leaves the last one in use; whoever mends it needs no restart.
    home = secure.keys.parent
    key = (home / "key.pem").read_bytes()
    (home / "key.pem").write_text("no key")
    assert secure.serials() == {after}
    (home / "key.pem").write_bytes(key)
    secure.renew(secure.authority.issue_cert("127.0.0.1", "localhost"))
    [last] = secure.serials()
    assert last not in (before, after)


def test_a_key_from_the_environment(secure: Secure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPTUNE_API_KEY", "search")
    monkeypatch.setenv("CLIPTUNE_CA_FILE", secure.ca)
    monkeypatch.setenv("CLIPTUNE_MAX_DOCS", "77")
    for address in (secure.grpc, secure.http):
        with Client.from_environment(address) as client:
            assert client.encode(["a"]).shape == (1, 32)
            assert client.max_docs == 77
        with Client(address, ca_file=secure.ca) as client, pytest.raises(Unauthorized):
            client.encode(["a"])
    monkeypatch.setenv("CLIPTUNE_SEARCH_SERVER", secure.http)
    assert Client.from_environment().address == secure.http
    with pytest.raises(BadInput, match="API key"):
        Client(secure.http, api_key="a\nb")
    with pytest.raises(BadInput, match="ca_file"):
        Client(secure.grpc, ca_file="nothing.pem")


def test_what_is_open_and_what_is_not(secure: Secure) -> None:
    for path in ("/", "/healthz", "/readyz", "/docs", "/openapi.json"):
        assert secure.ask("get", path).status_code == 200, path
    for path in ("/status", "/search?q=a", "/pictures/shop%2Fred", "/nowhere"):
        answer = secure.ask("get", path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["type"] == "Unauthorized"
    for path in ("/encode", "/post", "/clear"):
        assert secure.ask("post", path, data=b"{").status_code == 401
    assert secure.ask("get", "/status", headers={"X-API-Key": "search"}).status_code == 200
    assert (
        secure.ask("get", "/status", headers={"Authorization": "Basic search"}).status_code == 401
    )
    assert secure.ask("post", "/post", "search", json={"execEndpoint": "/clear"}).status_code == 403
    limited = [secure.ask("get", "/status", "slow") for _ in range(2)][-1]
    assert limited.status_code == 429
    assert 1 <= int(limited.headers["retry-after"]) <= 100


def test_a_body_is_not_read_for_strangers(secure: Secure) -> None:
    """The answer comes while most of the body has yet to be sent."""
    import socket

    host, port = secure.http.removeprefix("https://").split(":")
    context = ssl.create_default_context(cafile=secure.ca)
    raw = socket.create_connection((host, int(port)), timeout=30)
    with context.wrap_socket(raw, server_hostname=host) as connection:
        head = f"POST /encode HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 50000000\r\n\r\n"
        connection.sendall(head.encode() + b'{"data"')
        assert connection.recv(100).startswith(b"HTTP/1.1 401")


def test_keys_change_while_the_server_runs(secure: Secure) -> None:
    write_keys(secure.keys, fresh="fresh-key")
    channel_creds = grpc.ssl_channel_credentials(Path(secure.ca).read_bytes())
    with grpc.secure_channel(secure.grpc.removeprefix("grpcs://"), channel_creds) as channel:
        metadata = [("authorization", "Bearer fresh-key")]
        answered = threading.Event()

        def asked() -> Iterator[DataRequest]:
            yield data_request("/encode", ClipDoc(text="a"))
            answered.wait(60)
            write_keys(secure.keys)
            yield data_request("/encode", ClipDoc(text="b"))

        answers = jina_pb2_grpc.JinaRPCStub(channel).Call(asked(), metadata=metadata)
        assert next(answers).header.status.code == 0
        answered.set()
        told = next(answers).header.status.description
    assert "Unauthorized" in told, "in the midst of a stream too"
    with pytest.raises(Unauthorized):
        secure.client("http", "fresh-key").encode(["a"])


def test_grpc_refuses_before_it_reads(secure: Secure) -> None:
    channel_creds = grpc.ssl_channel_credentials(Path(secure.ca).read_bytes())
    with grpc.secure_channel(secure.grpc.removeprefix("grpcs://"), channel_creds) as channel:
        call = channel.stream_stream("/jina.JinaRPC/Call")
        with pytest.raises(grpc.RpcError) as caught:
            next(call(endless()))
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        for method in ("JinaInfoRPC/_status", "JinaGatewayDryRunRPC/dry_run"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/jina.{method}")(b"")
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        # Load balancers have no key.
        health = channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
        assert health == b"\x08\x01"


def endless() -> Iterator[bytes]:
    import time

    yield b"\xff" * 1000
    time.sleep(60)


def test_cors(secure: Secure) -> None:
    asked = {"Origin": SITE, "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "authorization,content-type"}  # fmt: skip
    answer = secure.ask("options", "/search", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SITE
    assert "authorization" in answer.headers["access-control-allow-headers"]
    body = {"data": [{"text": "red"}]}
    found = secure.ask("post", "/search", "search", json=body, headers={"Origin": SITE})
    assert found.status_code == 200
    assert found.headers["access-control-allow-origin"] == SITE
    # Its page can read errors too, and when to try again.
    refused = secure.ask("post", "/search", json=body, headers={"Origin": SITE})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == SITE
    assert "Retry-After" in refused.headers["access-control-expose-headers"]
    other = {**asked, "Origin": "https://evil.example"}
    assert secure.ask("options", "/search", headers=other).status_code == 400
    evil = secure.ask("post", "/search", "search", json=body, headers={"Origin": other["Origin"]})
    assert evil.status_code == 403
    assert "access-control-allow-origin" not in evil.headers


def test_websocket(secure: Secure) -> None:
    secure.client("grpc", "write").index(shop())
    context = ssl.create_default_context(cafile=secure.ca)
    url = secure.http.replace("https", "wss") + "/ws"

    async def talk() -> list[dict]:
        headers = {"Authorization": "Bearer search"}
        async with websockets.connect(url, ssl=context, additional_headers=headers) as socket:
            sent = [
                {"data": [{"text": "a"}, {"blob": base64_of(picture(1))}], "requestId": "1"},
                {"data": [{"text": "red"}], "execEndpoint": "/search", "parameters": {"limit": 1}},
                {"data": [{"text": 3}], "requestId": "bad"},
                {"execEndpoint": "/clear", "requestId": "c"},
                {"execEndpoint": "/status"},
            ]
            for message in sent:
                await socket.send(json.dumps(message))
            await socket.send("{")
            await socket.send(b'{"data": [{"text": "as bytes"}]}')
            return [json.loads(await socket.recv()) for _ in range(7)]

    answers = asyncio.run(talk())
    over_http = secure.ask(
        "post", "/post", "search", json={"data": [{"text": "a"}, {"blob": base64_of(picture(1))}]}
    )
    assert answers[0]["header"]["requestId"] == "1"
    assert [d["embedding"] for d in answers[0]["data"]] == [
        d["embedding"] for d in over_http.json()["data"]
    ]
    assert len(answers[1]["data"][0]["matches"]) == 1
    assert answers[2]["error"]["type"] == "BadInput"
    assert answers[2]["error"]["status"] == 422
    assert "data.0.text" in answers[2]["error"]["message"]
    assert answers[3]["error"]["type"] == "Forbidden"
    assert answers[3]["header"]["requestId"] == "c"
    assert answers[4]["data"][0]["tags"]["documents"] == 6
    assert answers[5]["error"]["type"] == "BadJson"
    assert len(answers[6]["data"][0]["embedding"]) == 32


def test_who_may_open_a_websocket(secure: Secure) -> None:
    context = ssl.create_default_context(cafile=secure.ca)
    url = secure.http.replace("https", "wss") + "/ws"

    async def opened(**options) -> str | None:
        async with websockets.connect(url, ssl=context, **options) as socket:
            await socket.send('{"data": [{"text": "a"}]}')
            assert "embedding" in json.loads(await socket.recv())["data"][0]
            return socket.subprotocol

    # As a browser does it, which can't send headers.
    protocols = ["cliptune", "bearer.search"]
    assert asyncio.run(opened(subprotocols=protocols)) == "cliptune"
    assert asyncio.run(opened(subprotocols=protocols, origin=SITE)) == "cliptune"
    for options in (
        {},
        {"subprotocols": ["cliptune", "bearer.wrong"]},
        {"subprotocols": protocols, "origin": "https://evil.example"},
    ):
        with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
            asyncio.run(opened(**options))
        assert caught.value.response.status_code == 403


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_pictures_by_uri(secure: Secure, protocol: str) -> None:
    (secure.pictures / "red.png").write_bytes(picture(COLOURS["red"]))
    body = {"data": [{"uri": f"file://{secure.pictures}/red.png"}, {"uri": "file:///etc/passwd"}]}
    found = secure.ask("post", "/encode", "search", json={"data": body["data"][:1]}).json()
    sent = secure.ask("post", "/encode", "search", json={"data": [{
        "image": base64_of(picture(COLOURS["red"]))}]}).json()  # fmt: skip
    assert found["data"][0]["embedding"] == sent["data"][0]["embedding"]
    refused = secure.ask("post", "/encode", "search", json=body)
    assert refused.status_code == 422
    assert "document 1" in refused.json()["error"]["message"]
    assert "not below what CLIPTUNE_ALLOW_URIS allows" in refused.json()["error"]["message"]
    inside = secure.ask("post", "/encode", "search", json={"data": [
        {"uri": "http://127.0.0.1:1/a.png"}]})  # fmt: skip
    assert "not a public address" in inside.json()["error"]["message"]
    made = data_request("/index", ClipDoc(id="by-uri", uri=f"file://{secure.pictures}/red.png"))
    creds = grpc.ssl_channel_credentials(Path(secure.ca).read_bytes())
    with grpc.secure_channel(secure.grpc.removeprefix("grpcs://"), creds) as channel:
        stub = jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel)
        stub.process_single_data(made, metadata=[("x-api-key", "write")])
    best = secure.client(protocol, "search").search(picture(COLOURS["red"]), limit=3).matches
    assert "by-uri" in [match.id for match in best]
    stored = secure.ask("get", "/pictures/by-uri", "search")
    assert stored.content == picture(COLOURS["red"])


def test_others_clients_are_held_to_the_same(secure: Secure) -> None:
    def embed(key: str, **asked: Any) -> openai.types.CreateEmbeddingResponse:
        http = httpx.Client(verify=ssl.create_default_context(cafile=secure.ca))
        address = f"{secure.http}/v1"
        with openai.OpenAI(base_url=address, api_key=key, http_client=http, max_retries=0) as ai:
            return ai.embeddings.create(model="cliptune", input="boots", **asked)

    assert embed("search").usage.total_tokens > 0
    with pytest.raises(openai.AuthenticationError) as stranger:
        embed("nobody")
    assert (stranger.value.code, stranger.value.type) == ("invalid_api_key", "authentication_error")
    with pytest.raises(openai.RateLimitError) as slow:
        [embed("slow") for _ in range(3)]
    assert slow.value.code == "rate_limit_exceeded"
    assert int(slow.value.response.headers["Retry-After"]) > 0
    elsewhere = {"Origin": "https://evil.example"}
    with pytest.raises(openai.PermissionDeniedError) as site:
        embed("search", extra_headers=elsewhere)
    assert site.value.type == "permission_error"

    (secure.pictures / "seen.png").write_bytes(picture(COLOURS["blue"]))
    place = {"image": f"file://{secure.pictures}/seen.png"}
    read = embed("search", extra_body={"input": [place]})
    sent = embed("search", extra_body={"input": [{"image": base64_of(picture(COLOURS["blue"]))}]})
    assert read.data[0].embedding == sent.data[0].embedding
    for uri in ("file:///etc/passwd", "http://127.0.0.1:1/a.png"):
        with pytest.raises(openai.BadRequestError, match="not below what|not a public address"):
            embed("search", extra_body={"input": [uri], "modality": "image"})


def test_ranking_and_updating_by_uri(secure: Secure) -> None:
    files = [secure.pictures / f"{name}.png" for name in ("red", "blue")]
    for file in files:
        file.write_bytes(picture(COLOURS[file.stem]))
    by_uri = [{"id": file.stem, "uri": f"file://{file}"} for file in files]
    by_bytes = [{"id": file.stem, "image": base64_of(file.read_bytes())} for file in files]
    scores = []
    for matches in (by_uri, by_bytes):
        body = {"data": [{"text": "red", "matches": matches}]}
        [doc] = secure.ask("post", "/rank", "search", json=body).json()["data"]
        scores.append({match["id"]: match["clip_score_cosine"] for match in doc["matches"]})
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    outside = {"data": [{"text": "red", "matches": [{"uri": "file:///etc/passwd"}]}]}
    refused = secure.ask("post", "/rank", "search", json=outside)
    assert "not below what CLIPTUNE_ALLOW_URIS allows" in refused.json()["error"]["message"]

    stored = {"data": [{"id": "changing", "image": base64_of(files[0].read_bytes())}]}
    assert secure.ask("post", "/index", "write", json=stored).ok
    link, read = "https://shop.example/changing", f"file://{files[1]}"
    for uri, shown in ((link, files[0]), (read, files[1])):
        body = {"data": [{"id": "changing", "uri": uri}]}
        assert secure.ask("post", "/update", "write", json=body).ok
        assert secure.ask("get", "/pictures/changing", "search").content == shown.read_bytes()
        [kept] = secure.client("http", "admin").get(["changing"])
        assert kept.uri == uri
        [told] = secure.client("http", "search").get(["changing"])
        assert told.uri == (uri if uri == link else None)  # paths are the operator's


def test_a_flood_is_refused_at_once_and_the_server_goes_on(secure: Secure) -> None:
    """Many more requests than the queue holds: each is answered or refused, none hangs."""
    docs = [{"image": base64_of(picture(i, (500, 400)))} for i in range(8)]
    over_http = json.dumps({"data": docs}).encode()

    def by_http(_: int) -> str:
        answer = secure.ask("post", "/encode", "search", data=over_http)
        if answer.status_code == 429:
            assert answer.json()["error"]["type"] == "Overloaded"
            assert answer.headers["retry-after"]
        return {200: "answered", 429: "refused"}[answer.status_code]

    clients = [secure.client("grpc", "search") for _ in range(4)]

    def by_grpc(number: int) -> str:
        batch = DocList[ClipDoc](ClipDoc(image=picture(i, (500, 400))) for i in range(8))
        try:
            clients[number % 4].encode(batch)
        except Overloaded as error:
            return "refused" if error.retry_after > 0 else "without a time to come again"
        assert all(doc.embedding is not None for doc in batch)
        return "answered"

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        outcomes = [*pool.map(by_http, range(90))]
        outcomes += pool.map(by_grpc, range(60))
    assert len(outcomes) == 150
    assert set(outcomes) == {"answered", "refused"}
    assert outcomes.count("answered") >= PENDING
    assert secure.client("http", "search").encode(["and on"]).shape == (1, 32)


def test_clip_as_services_port_asks_for_keys_too(secure: Secure) -> None:
    asked = clip_service_pb2.Request()
    asked.data.docs.docs.add(text="a")
    asked.header.exec_endpoint = "/"
    creds = grpc.ssl_channel_credentials(Path(secure.ca).read_bytes())
    with grpc.secure_channel(secure.clip_service, creds) as channel:
        call = channel.stream_stream(
            "/jina.JinaRPC/Call",
            request_serializer=clip_service_pb2.Request.SerializeToString,
            response_deserializer=clip_service_pb2.Request.FromString,
        )
        with pytest.raises(grpc.RpcError) as caught:
            next(call(iter([asked])))
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        [answer] = call(iter([asked]), metadata=[("authorization", "Bearer search")])
        assert answer.data.docs.docs[0].HasField("embedding")
        asked.header.exec_endpoint = "/clear"
        [answer] = call(iter([asked]), metadata=[("authorization", "Bearer search")])
        assert answer.header.status.exception.name == "Forbidden"


def test_the_search_page_asks_for_a_key(secure: Secure, browser: Any) -> None:
    secure.client("grpc", "admin").clear()
    secure.client("grpc", "write").index(shop())
    context = browser.new_context(ignore_https_errors=True)
    page = context.new_page()
    page.goto(secure.http)
    page.locator("#key[open]").wait_for()
    page.fill("#key-text", "wrong")
    page.press("#key-text", "Enter")
    page.get_by_text("This key is not known here.").wait_for()
    page.fill("#key-text", "search")
    page.press("#key-text", "Enter")
    page.get_by_text("6 pictures").wait_for()
    # Pictures need the key too, which an <img> can't send by itself.
    page.wait_for_function(
        "() => { const all = [...document.querySelectorAll('.tile img')];"
        " return all.length === 6 && all.every((i) => i.complete && i.naturalWidth > 0); }"
    )
    page.reload()
    page.get_by_text("6 pictures").wait_for()
    context.close()
