from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from docarray import DocList

from cliptune.client.data_sets import DataSets
from cliptune.data.store import pull
from cliptune.data.validation import PAIR
from cliptune.documents import ClipDoc
from cliptune.executors.training import store_part
from tests.pictures import picture


class Server:
    """What the Trainer makes of the requests, without a network."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.requests = folder, 0

    def post(
        self, endpoint: object, docs: DocList[ClipDoc], parameters: Mapping[str, object]
    ) -> list[SimpleNamespace]:
        self.requests += 1
        came = DocList[ClipDoc].from_protobuf(docs.to_protobuf())
        answer = store_part(came, parameters, self.folder)
        return [SimpleNamespace(result='{"stored": true}' if answer["stored"] else '{"stored": 0}')]


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "uploads")


def pairs(**fields: object) -> DocList[ClipDoc]:
    """Three pairs; the second has the fields."""
    return DocList[ClipDoc](
        ClipDoc(
            id=str(number), text=f"boots {number}", image=picture(number),
            **(fields if number == 1 else {}),
        )
        for number in range(3)
    )  # fmt: skip


FIELDS = [{"weight": 2.5}, {"grade": 1}, {"negatives": ["0", "2"]}, {"texts": {"boots 1": 0.5}}]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_all_that_training_reads_of_a_pair_is_sent(
    server: Server, fields: dict[str, object]
) -> None:
    sets = DataSets(server, max_docs=2)  # type: ignore[arg-type]
    name = sets.name_of(pairs(**fields), None, "train_data", PAIR)
    for doc, sent in zip(pairs(**fields), pull(name), strict=True):
        assert sent.model_dump() == doc.model_dump()
    requests = server.requests
    assert sets.name_of(pairs(**fields), None, "train_data", PAIR) == name
    assert server.requests == requests + 1, "it is there already: nothing is sent again"
    assert sets.name_of(pairs(), None, "train_data", PAIR) != name


def test_ids_count_where_pairs_name_others(server: Server) -> None:
    sets = DataSets(server, max_docs=9)  # type: ignore[arg-type]
    plain, naming = pairs(), pairs(negatives=["0"])
    names = {sets.name_of(docs, None, "train_data", PAIR) for docs in (plain, naming)}
    for docs in (plain, naming):
        docs[0].id = "another"
        names.add(sets.name_of(docs, None, "train_data", PAIR))
    assert len(names) == 3
