"""`min_relevance`: over both protocols, by a model that is calibrated, and refused by others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import requests
from docarray import DocList
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.documents import ClipDoc, Match
from cliptune.errors import BadInput, NotReady
from cliptune.executors.relevance import judge, threshold
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.calibration import Calibration
from cliptune.models.loading import load_model
from cliptune.protocol.parameters import SearchParameters
from cliptune.serving import Client, serve
from tests.pictures import COLOURS, picture, shop
from tests.ports import free_ports
from tests.server import Server

CURVE = [10.0, -2.0]


def test_a_probability_is_the_least_cosine_of_each_model() -> None:
    docs = [ClipDoc(text="a", calibration=CURVE), ClipDoc(image=b"x"), ClipDoc(text="b")]

    def asked(of: int, **given: float) -> float | None:
        return threshold(docs, [of], SearchParameters.model_validate(given))

    assert asked(1) is None
    assert asked(1, score_threshold=0.3) == 0.3
    assert asked(0, min_relevance=0.5) == pytest.approx(0.2)
    assert asked(0, min_relevance=0.5, score_threshold=0.3) == 0.3
    assert asked(0, min_relevance=0.5, score_threshold=0.1) == pytest.approx(0.2)
    assert (asked(0, min_relevance=0), asked(0, min_relevance=1)) == (-1, 1)
    with pytest.raises(BadInput, match="min_relevance: document 1 .*is no text"):
        asked(1, min_relevance=0.5)
    with pytest.raises(
        NotReady, match="min_relevance: model .* is not calibrated: `cliptune calib"
    ):
        asked(2, min_relevance=0.5)


def test_matches_are_judged_where_it_is_known() -> None:
    def found() -> DocList[Match]:
        return DocList[Match](
            [Match(id="a", score=1.0, image_digest="d"), Match(id="b", score=0.2, uri="u")]
        )

    text = ClipDoc(text="a", calibration=CURVE)
    judge(text, matches := found(), None)
    assert [one.relevance for one in matches] == pytest.approx([0.99966, 0.5], abs=1e-5)
    judge(text, matches := found(), 0.9)
    assert [one.id for one in matches] == ["a"]
    judge(text, matches := found(), 1.0)
    assert len(matches) == 0
    judge(ClipDoc(text="a"), matches := found(), None)
    assert [one.relevance for one in matches] == [None, None]
    by_text = DocList[Match]([Match(id="t", score=0.9)])
    judge(text, by_text, None)
    assert by_text[0].relevance is None
    with pytest.raises(BadInput, match="the document 't' was indexed by its text"):
        judge(text, by_text, 0.1)


@pytest.mark.e2e
def test_a_calibrated_model_is_served_with_what_its_cosines_mean(
    tiny_model: Path, tmp_path: Path
) -> None:
    calibration = Calibration(10.0, -2.0, 20, 100, 1000, 2000, 300, 0.01)
    write_artifact(load_model(tiny_model), tmp_path / "model", calibration=calibration)
    grpc_port, http_port = free_ports(2)
    ports = {"grpc_port": grpc_port, "http_port": http_port}
    with serve(tmp_path / "model", index=tmp_path / "index", **ports):
        addresses = [f"grpc://127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}"]
        for address in addresses:
            client = Client(address)
            client.index(shop())
            assert client.status()["model"]["calibrated"] is True
            plain = client.search("red boots", limit=10)
            assert plain.calibration is None
            for match in plain.matches:
                assert match.relevance == pytest.approx(calibration.relevance(match.score))
            middle = plain.matches[len(plain.matches) // 2].relevance
            cut = client.search("red boots", limit=10, min_relevance=middle)
            kept = [one.id for one in plain.matches if (one.relevance or 0) >= (middle or 0)]
            assert [one.id for one in cut.matches] == kept
            assert 0 < len(kept) < len(plain.matches)
            assert len(client.search("red boots", min_relevance=1.0).matches) == 0
            pictured = client.search(picture(COLOURS["red"]))
            assert {one.relevance for one in pictured.matches} == {None}
            with pytest.raises(BadInput, match="is no text"):
                client.search(["a", picture(COLOURS["red"])], min_relevance=0.5)
            for wrong in (-0.1, 1.1, float("nan")):
                with pytest.raises(BadInput, match="min_relevance"):
                    client.search("a", min_relevance=wrong)
        told = {"q": "red boots", "min_relevance": "0"}
        got = requests.get(f"{addresses[1]}/search", told, timeout=60).json()
        assert got["matches"][0]["relevance"] == pytest.approx(plain.matches[0].relevance)
        environment = {"CLIPTUNE_SEARCH_SERVER": addresses[0]}
        arguments = ["search", "red boots", "--min-relevance"]
        shown = CliRunner().invoke(app, [*arguments, "0", "--json"], env=environment)
        assert json.loads(shown.stdout)[0]["relevance"] == pytest.approx(plain.matches[0].relevance)
        nothing = CliRunner().invoke(app, [*arguments, "1"], env=environment)
        assert "Nothing found that is relevant with 1 or more." in nothing.stdout


@pytest.mark.e2e
def test_a_model_that_is_not_calibrated_says_so(server: Server, clients: list[Client]) -> None:
    clients[0].index(shop())
    for client in clients:
        assert client.status()["model"]["calibrated"] is False
        assert {one.relevance for one in client.search("red").matches} == {None}
        with pytest.raises(NotReady, match="min_relevance: model .* is not calibrated"):
            client.search("red", min_relevance=0.5)
