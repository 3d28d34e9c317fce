"""A search Flow whose index is in Milvus, which goes away and comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.errors import Unavailable
from cliptune.index import open_index
from cliptune.serving import Client, serve
from tests.milvus_process import MilvusProcess
from tests.pictures import shop
from tests.ports import free_ports


@pytest.mark.e2e
def test_a_search_flow_on_milvus(
    tiny_model: Path, new_milvus: Callable[[], MilvusProcess], tmp_path: Path
) -> None:
    milvus = new_milvus()
    uri = f"{milvus.new_uri()}?timeout=3"
    grpc_port, http_port = free_ports(2)
    page = f"http://127.0.0.1:{http_port}"
    with (
        serve(tiny_model, index=uri, grpc_port=grpc_port, http_port=http_port),
        Client(f"grpc://127.0.0.1:{grpc_port}") as client,
    ):
        client.index(shop())
        result = client.search("red thing", limit=3, filter="price <= 40 and colour != 'red'")
        assert len(result.matches) == 3
        assert all(match.tags["price"] <= 40 for match in result.matches)
        first = shop()[0]
        assert requests.get(f"{page}/pictures/{first.id}", timeout=30).content == first.image

        milvus.kill()
        query = {"data": [{"text": "red thing"}]}
        answer = requests.post(f"{page}/search", json=query, timeout=60)
        assert answer.status_code == 503
        assert "hasn't answered for 3 s" in answer.text
        assert "Traceback" not in answer.text
        with pytest.raises(Unavailable):
            client.index(shop())
        milvus.start()

        # Milvus answers before it has loaded its collections.
        with open_index(uri.split("?")[0], timeout=120) as index:
            assert index.count() == len(shop())
        assert requests.post(f"{page}/search", json=query, timeout=60).status_code == 200
        client.index(shop())

    folder = tmp_path / "copy"
    run = CliRunner().invoke(app, ["index", "migrate", uri, str(folder)])
    assert run.exit_code == 0, run.output
    assert "6 documents copied" in run.output
    back = milvus.new_uri()
    run = CliRunner().invoke(app, ["index", "migrate", str(folder), back])
    assert "6 documents copied" in run.output
    again = CliRunner().invoke(app, ["index", "migrate", str(folder), back])
    assert "0 documents copied, 6 were there already" in again.output
    with open_index(folder) as here, open_index(back) as there:
        for one, other in zip(
            next(here.scan(include_image=True)), next(there.scan(include_image=True)), strict=True
        ):
            assert repr(one) == repr(other)
    missing = CliRunner().invoke(app, ["index", "migrate", milvus.new_uri(), str(tmp_path / "x")])
    assert missing.exit_code != 0
    assert "no index at" in missing.output + str(missing.exception)
    milvus.stop()
