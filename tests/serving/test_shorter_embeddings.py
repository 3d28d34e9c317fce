"""A service whose model was trained to be cut: the first numbers of its embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openai
import pytest
from docarray import DocList

import cliptune
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import load_model
from cliptune.quantization import quantize_embeddings
from cliptune.serving import Client, serve
from tests.pictures import picture
from tests.ports import free_ports

pytestmark = pytest.mark.e2e
TITLES = ["red boots", "a hat"]


def test_from_every_side(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPTUNE_HOME", str(tmp_path))
    artifact = tmp_path / "model"
    write_artifact(load_model(tiny_model), artifact, config={"matryoshka": [8, 16]})
    towers = cliptune.get_model(artifact)
    whole = np.asarray(cliptune.encode(towers, TITLES))
    first = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(cliptune.encode(towers, TITLES, dimensions=8), first, atol=1e-6)
    with pytest.raises(BadInput, match="dimensions is 9: this model's embeddings have 8, 16, 32"):
        cliptune.encode(towers, TITLES, dimensions=9)
    with pytest.raises(BadInput, match="only those of models trained with matryoshka"):
        cliptune.encode(cliptune.build_model(str(tiny_model)), TITLES, dimensions=8)

    grpc, http, clip_service = free_ports(3)
    ports = {"grpc_port": grpc, "http_port": http, "clip_service_port": clip_service}
    with serve(artifact, index=tmp_path / "index", **ports):
        pictures = [ClipDoc(image=picture(number)) for number in range(2)]
        expected = cliptune.encode(towers, DocList[ClipDoc](pictures), dimensions=8)
        for address in (f"grpc://127.0.0.1:{grpc}", f"http://127.0.0.1:{http}"):
            with Client(address) as client:
                shorter = {"parameters": {"dimensions": 8}}
                np.testing.assert_allclose(client.encode(TITLES, **shorter), first, atol=1e-5)
                asked = [ClipDoc(image=picture(number)) for number in range(2)]
                for ours, theirs in zip(client.encode(asked, **shorter), expected, strict=True):
                    np.testing.assert_allclose(ours.embedding, theirs.embedding, atol=1e-5)
                for given in (["a"], [ClipDoc(image=picture(1))]):
                    with pytest.raises(BadInput, match="have 8, 16, 32"):
                        client.encode(given, parameters={"dimensions": 9})
                assert client.status()["model"]["lengths"] == [8, 16]
                both = [TITLES[0], picture(1)]
                floats = np.asarray(client.encode(both))
                for kind, dtype in (("int8", np.int8), ("ubinary", np.uint8)):
                    expected_type = quantize_embeddings(floats, kind)
                    stored = client.encode(both, parameters={"output_dtype": kind})
                    assert (stored.dtype, stored.shape) == (dtype, expected_type.shape)
                    if kind == "ubinary":  # a number that is nearly 0 may round to either side
                        assert np.bitwise_count(stored ^ expected_type).sum() <= 1
                    else:
                        np.testing.assert_allclose(stored.astype(int), expected_type, atol=1)
                with pytest.raises(BadInput, match="output_dtype.*'float32', 'int8' or 'ubinary'"):
                    client.encode(["a"], parameters={"output_dtype": "int4"})
                failed: list[object] = []
                rows = client.encode(
                    [TITLES[0], b"no picture"],
                    parameters={"output_dtype": "int8"},
                    on_error=lambda error, _, failed=failed: failed.append(error),
                )
                assert len(failed) == 1
                assert np.isnan(rows[1]).all()
                np.testing.assert_allclose(rows[0], quantize_embeddings(floats[0], "int8"), atol=1)
                assert client.encode(TITLES).shape == (2, 32)
        ai = openai.OpenAI(base_url=f"http://127.0.0.1:{http}/v1", api_key="none", max_retries=0)
        answer = ai.embeddings.create(model="cliptune", input=TITLES, dimensions=16)
        cut = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
        np.testing.assert_allclose([one.embedding for one in answer.data], cut, atol=1e-5)
        for kind in ("int8", "ubinary"):
            answer = ai.embeddings.create(
                model="cliptune",
                input=TITLES,
                encoding_format="float",
                extra_body={"output_dtype": kind},
            )
            stored = np.asarray([one.embedding for one in answer.data])
            np.testing.assert_array_equal(
                stored, cliptune.encode(towers, TITLES, output_dtype=kind)
            )
        with pytest.raises(openai.BadRequestError, match="have 8, 16, 32"):
            ai.embeddings.create(model="cliptune", input=TITLES, dimensions=9)
