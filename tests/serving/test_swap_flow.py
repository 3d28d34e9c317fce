"""Swaps under a running Flow: every answer under load is one model's, and no write is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from docarray import DocList
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.documents import ClipDoc
from cliptune.errors import CliptuneError, NotFound
from cliptune.gateway.access.api_keys import make_key
from cliptune.index.versions.models import model_digest
from cliptune.inference import get_tower
from cliptune.protocol.endpoints import SEARCH
from cliptune.serving import Client, serve
from tests.pictures import base64_of, picture
from tests.ports import free_ports

pytestmark = pytest.mark.e2e
STABLE = 40
KEY = "operator"
HEADERS = {"Authorization": f"Bearer {KEY}"}
QUERIES = ["a red thing", "something blue", "product 7", "zebra"]


def products(count: int, start: int = 0) -> DocList[ClipDoc]:
    return DocList[ClipDoc](
        ClipDoc(id=f"p{i:04}", text=f"product {i}", image=picture(i), tags={"n": i})
        for i in range(start, start + count)
    )


class Truth:
    """What each model finds for the queries among the documents that stay as they are."""

    def __init__(self, models: tuple[Path, ...]) -> None:
        self.scores: dict[str, np.ndarray] = {}
        for model in models:
            vision, text = get_tower(model, "clip-vision"), get_tower(model, "clip-text")
            stored = vision.encode([picture(i) for i in range(STABLE)])
            asked = np.concatenate([text.encode(QUERIES), vision.encode([picture(3)])])
            self.scores[vision.digest] = asked @ stored.T

    def check(self, number: int, digest: str | None, matches: dict[str, float]) -> None:
        """The five answers to query `number` are exactly those of the model `digest`."""
        expected = self.scores[str(digest)][number]
        best = np.sort(expected)[::-1]
        assert len(matches) == 5
        for place, (one, score) in enumerate(matches.items()):
            assert abs(expected[int(one[1:])] - score) < 1e-3, (digest, matches)
            assert abs(best[place] - score) < 1e-3, (digest, matches)


class Load:
    """Threads that search, index and delete until the block ends, and what they saw."""

    def __init__(self, grpc: str, http: str, truth: Truth) -> None:
        self.grpc, self.http, self.truth = grpc, http, truth
        self.problems: list[BaseException] = []
        self.seen: dict[str, int] = {}
        self.kept: dict[str, str | None] = {}
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(work,))
            for work in (self._by_grpc, self._by_http, self._mixed, self._write)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, digest: str) -> None:
        """Go on until ten answers have come from a model."""
        goal = self.seen.get(digest, 0) + 10
        while self.seen.get(digest, 0) < goal and not self.problems:
            self._ended.wait(0.02)

    def _run(self, work: Any) -> None:
        number = 0
        try:
            while not self._ended.is_set():
                work(number)
                number += 1
                self._ended.wait(0.01)
        except BaseException as error:
            self.problems.append(error)

    def _check(self, number: int, digest: str | None, matches: dict[str, float]) -> None:
        self.truth.check(number, digest, matches)
        self.seen[str(digest)] = self.seen.get(str(digest), 0) + 1

    def _by_grpc(self, number: int) -> None:
        number %= len(QUERIES)
        found = self.client.search(QUERIES[number], limit=5, filter=f"n < {STABLE}")
        self._check(number, found.model_digest, {str(m.id): m.score for m in found.matches})

    def _by_http(self, number: int) -> None:
        parameters = {"limit": 5, "filter": f"n < {STABLE}"}
        body = {"data": [{"image": base64_of(picture(3))}], "parameters": parameters}
        response = requests.post(f"{self.http}/search", json=body, headers=HEADERS, timeout=60)
        assert response.status_code == 200, response.text
        [found] = response.json()["data"]
        matches = {m["id"]: m["score"] for m in found["matches"]}
        self._check(len(QUERIES), found["model_digest"], matches)

    def _mixed(self, number: int) -> None:
        docs = DocList[ClipDoc]([ClipDoc(text=QUERIES[0]), ClipDoc(image=picture(3))])
        parameters = {"limit": 5, "filter": f"n < {STABLE}"}
        found = self.client._transport.post(SEARCH, docs, parameters)
        assert found[0].model_digest == found[1].model_digest, "both by one model"
        for place, one in zip((0, len(QUERIES)), found, strict=True):
            self._check(place, one.model_digest, {str(m.id): m.score for m in one.matches})

    def _write(self, number: int) -> None:
        one = f"w{number % 7}"
        if number % 3 == 2:
            self.client.delete(one)
            self.kept[one] = None
        else:
            doc = ClipDoc(id=one, text=f"{number}", image=picture(number), tags={"n": 1000})
            assert self.client.index(DocList[ClipDoc]([doc])) == 1
            self.kept[one] = f"{number}"

    @property
    def client(self) -> Client:
        if not hasattr(self, "_client"):
            self._client = Client.from_environment(self.grpc, timeout=120)
        return self._client

    def check_kept(self) -> None:
        """What the service holds is what was written."""
        found = {str(d.id): d.text for d in self.client.get(sorted(self.kept))}
        assert found == {one: text for one, text in self.kept.items() if text}


def swap(server: str, *arguments: str, fails: bool = False) -> str:
    """`cliptune swap` to its end; returns what it printed, or its error, in one line."""
    result = CliRunner().invoke(app, ["swap", "--server", server, *arguments])
    if fails:
        assert isinstance(result.exception, CliptuneError), result.output
        return result.output + str(result.exception)
    assert result.exit_code == 0, (result.output, result.exception)
    return " ".join(result.output.split())


def kill_amid_swap(server: str, *arguments: str) -> None:
    """Start `cliptune swap`, and kill it as soon as the service tells of it."""
    command = [sys.executable, "-m", "cliptune", "swap", "--server", server, *arguments]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with Client.from_environment(server, timeout=120) as client:
        while "swap" not in client.status()["index"]:
            assert run.poll() is None, run.communicate()[0]
    run.send_signal(signal.SIGKILL)
    run.communicate()


@pytest.fixture(scope="module")
def place(
    models: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """Where the service is, and how it is started."""
    grpc_port, http_port = free_ports(2)
    home = tmp_path_factory.mktemp("swap-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPTUNE_HOME", str(home))
        patch.setenv("CLIPTUNE_API_KEY", KEY)  # of the clients, `cliptune swap` among them
        (home / "keys").write_text(make_key(KEY, "ops", "write").line() + "\n")
        yield {
            "index": home / "shop",
            "options": {
                "grpc_port": grpc_port,
                "http_port": http_port,
                "api_keys": home / "keys",
            },
            "grpc": f"grpc://127.0.0.1:{grpc_port}",
            "http": f"http://127.0.0.1:{http_port}",
        }


def test_swaps_under_load_undo_kill_and_restart(
    place: dict[str, Any],
    models: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.nice", lambda by: 0)  # it would stay so for all tests after this
    monkeypatch.setenv("COLUMNS", "200")
    first, second = (model_digest(model) for model in models[:2])
    truth = Truth(models[:2])
    grpc, http = place["grpc"], place["http"]
    client = Client.from_environment(grpc, timeout=120)
    with serve(models[0], index=place["index"], **place["options"]):
        client.index(products(STABLE))
        assert "never swapped" in swap(grpc)
        with Load(grpc, http, truth) as load:
            # Killed in the middle of it: nothing has changed, and it goes on.
            kill_amid_swap(grpc, "--artifact", str(models[1]), "--force")
            assert client.status()["model"]["model_digest"] == first
            assert client.status()["index"]["swap"]["phase"].startswith("stopped: while ")

            output = swap(grpc, "--artifact", str(models[1]), "--prepare")
            assert f"model {second:.12} (1) is prepared" in output
            assert "reciprocal_rank" in output
            status = client.status()
            assert status["model"]["model_digest"] == first
            assert second in status["model"]["loaded"]
            assert status["index"]["generations"]["next"]["complete"] is True
            for slot, digest in (("next", second), ("current", first)):
                found = client.search(QUERIES[1], 5, filter=f"n < {STABLE}", model=slot)
                assert found.model_digest == digest
                truth.check(1, digest, {str(m.id): m.score for m in found.matches})
            with pytest.raises(NotFound, match="'previous': there is none"):
                client.search("a", model="previous")

            output = swap(grpc, "--artifact", str(models[1]), "--force")
            assert f"switched to model {second:.12}" in output
            load.wait_for(second)
            output = swap(grpc, "--undo")
            assert f"back at model {first:.12}" in output
            load.wait_for(first)
            swap(grpc, "--undo")
            load.wait_for(second)
        assert load.problems == []
        assert set(load.seen) == {first, second}
        load.check_kept()
        options: dict[str, Any] = {"headers": HEADERS, "timeout": 60}
        response = requests.get(f"{http}/search?q=zebra&limit=5&model=previous", **options)
        assert response.json()["model_digest"] == first
        assert requests.get(f"{http}/search?q=a&model=x", **options).status_code == 422

    with serve(models[0], index=place["index"], **place["options"]):
        # The setting names the first model; the index was switched to the second.
        again = Client.from_environment(http, timeout=120)
        status = again.status()
        assert status["model"]["model_digest"] == status["vision"]["model_digest"] == second
        assert status["searchable"] is True
        assert status["model"]["loaded"] == [second]
        load.check_kept()
        found = again.search(QUERIES[2], 5, filter=f"n < {STABLE}", model="previous")
        truth.check(2, first, {str(m.id): m.score for m in found.matches})
        again.index(products(1, start=2000))

        # The rule: answers that only the served model finds.
        right = [again.search(f"query {i}", 1).matches[0].text for i in range(30)]
        rows = [f"query {i},{label}" for i, label in enumerate(right)]
        table = tmp_path / "queries.csv"
        table.write_text("\n".join(["text,label", *rows]))
        asked = ["--queries", str(table), "--text-column", "text", "--label-column", "label"]
        swap(grpc, "--discard")
        output = swap(grpc, "--artifact", str(models[0]), *asked, fails=True)
        assert "finds clearly less" in output
        assert again.status()["model"]["model_digest"] == second
        assert "next" in swap(grpc)
        assert "switched" in swap(grpc, "--artifact", str(models[0]), *asked, "--force")
        load.check_kept()
        assert [str(d.id) for d in again.get(["p2000"])] == ["p2000"]
        assert "is the one that is served" in swap(grpc, "--artifact", str(models[0]))
        assert "give one of" in swap(grpc, "--undo", "--discard", fails=True)
