"""A served Flow as its operator sees it: metrics, traces, and logs with the request's id."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from docarray import DocList
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from cliptune.documents import ClipDoc
from cliptune.errors import BadInput
from cliptune.serving import Client, serve
from tests.pictures import base64_of, picture
from tests.ports import free_ports
from tests.waiting import wait_until

DASHBOARD = Path(__file__).resolve().parents[2] / "monitoring" / "grafana-dashboard.json"


@dataclass
class SpanSeen:
    service: str
    name: str
    trace: str
    span: str
    parent: str


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """What OpenTelemetry's collector does: takes spans over gRPC."""

    def __init__(self) -> None:
        self.spans: list[SpanSeen] = []
        self.changed = threading.Condition()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self.changed:
            for resource in request.resource_spans:
                attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
                for span in (s for scope in resource.scope_spans for s in scope.spans):
                    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    self.spans.append(SpanSeen(attributes["service.name"], span.name, *ids))
            self.changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def of(self, trace: str, count: int) -> list[SpanSeen]:
        """All spans of a trace, once there are `count`."""

        def found() -> list[SpanSeen]:
            return [span for span in self.spans if span.trace == trace]

        with self.changed:
            assert self.changed.wait_for(lambda: len(found()) >= count, 60), self.spans
            return found()


@dataclass
class Watched:
    """A Flow, and where its operator looks."""

    grpc: str
    http: str
    log: Path
    collector: Collector

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Samples by name and the values of their labels, once all answered requests count."""

        def settled() -> dict[tuple[str, ...], float] | None:
            text = requests.get(f"{self.http}/metrics", timeout=30).text
            samples = {
                (sample.name, *(v for _, v in sorted(sample.labels.items()))): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
            in_progress = (v for k, v in samples.items() if k[0] == "cliptune_requests_in_progress")
            return None if any(in_progress) else samples

        return wait_until(settled)

    def lines(self, identity: str) -> list[dict[str, Any]]:
        """The log's lines with a request's id; the gateway's is written last."""

        def whole() -> list[dict[str, Any]] | None:
            lines = self.log.read_text().splitlines()
            parsed = [json.loads(line) for line in lines if line.startswith("{")]
            of_request = [line for line in parsed if line.get("request_id") == identity]
            return of_request if any(line["service"] == "gateway" for line in of_request) else None

        return wait_until(whole)


@pytest.fixture(scope="module")
def watched(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    grpc_port, http_port, collector_port = free_ports(3)
    home = tmp_path_factory.mktemp("watched-home")
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    server.add_insecure_port(f"127.0.0.1:{collector_port}")
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPTUNE_HOME", str(home))
        patch.setenv("CLIPTUNE_LOG_FORMAT", "json")
        patch.setenv("CLIPTUNE_TRACES", f"http://127.0.0.1:{collector_port}")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        index = home / "index"
        with serve(tiny_model, index=index, grpc_port=grpc_port, http_port=http_port):
            log = home / "logs" / f"search-{grpc_port}.log"
            addresses = f"grpc://127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}"
            yield Watched(*addresses, log, collector)
    server.stop(None)


def encode(watched: Watched, items: list[dict], **headers: str) -> requests.Response:
    url = f"{watched.http}/encode"
    return requests.post(url, json={"data": items}, headers=headers, timeout=60)


@pytest.mark.e2e
def test_metrics_count_what_was_asked(watched: Watched) -> None:
    before = watched.metrics()
    long = "boots " * 100
    items = [{"text": "red"}, {"text": "blue"}, {"text": long}, {"image": base64_of(picture(1))}]
    assert encode(watched, items).status_code == 200
    assert encode(watched, items[:2]).status_code == 200
    assert encode(watched, []).status_code == 422
    assert requests.get(f"{watched.http}/nowhere/{uuid.uuid4()}", timeout=30).status_code == 404
    with Client(watched.grpc) as client:
        docs = [ClipDoc(id=str(i), text=f"t{i}", image=picture(i)) for i in range(3)]
        client.index(DocList[ClipDoc](docs))
        client.search("red", limit=1)
        with pytest.raises(BadInput):
            client.delete()
        client.delete(ids="0")
    after = watched.metrics()

    def gained(*key: str) -> float:
        return after.get(key, 0) - before.get(key, 0)

    requests_total = "cliptune_requests_total"
    assert gained(requests_total, "/encode", "http", "200") == 2
    assert gained(requests_total, "/encode", "http", "422") == 1
    assert gained(requests_total, "other", "http", "404") == 1
    assert gained(requests_total, "/search", "grpc", "OK") == 1
    assert gained(requests_total, "/delete", "grpc", "INVALID_ARGUMENT") == 1
    assert gained("cliptune_request_seconds_count", "/encode", "http") == 3
    assert gained("cliptune_request_seconds_sum", "/encode", "http") > 0
    assert gained("cliptune_executor_errors_total", "/delete", "indexer") == 1
    assert gained("cliptune_executor_seconds_count", "/encode", "text") == 2
    assert gained("cliptune_executor_seconds_count", "/encode", "vision") == 1, "texts pass by"
    for stage in ("preprocess", "queue", "inference"):
        assert gained("cliptune_stage_seconds_count", "text", stage) == 1, "the rest was cached"
        assert gained("cliptune_stage_seconds_count", "vision", stage) == 2
    assert gained("cliptune_stage_seconds_count", "indexer", "index") == 2
    assert gained("cliptune_batch_rows_sum", "text") == 3
    assert gained("cliptune_batch_rows_sum", "vision") == 4
    assert gained("cliptune_engine_busy_seconds_total", "vision") > 0
    assert gained("cliptune_query_cache_lookups_total", "miss") == 3
    assert gained("cliptune_query_cache_lookups_total", "hit") == 3
    assert gained("cliptune_truncated_texts_total") == 1
    assert after["cliptune_index_rows",] == 2
    assert after["cliptune_requests_in_progress", "http"] == 0
    assert not [key for key in after if "/nowhere" in "".join(key)], "no series by a client's will"


@pytest.mark.e2e
def test_all_that_the_dashboard_queries_is_exported(watched: Watched) -> None:
    import re

    assert encode(watched, [{"text": "one"}, {"image": base64_of(picture(2))}]).ok
    exported = {name for name, *_ in watched.metrics()}
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", [])]
    queried = {name for query in queries for name in re.findall(r"cliptune_\w+", query)}
    assert len(queries) > 10
    assert queried <= exported, queried - exported
    labels = {"endpoint", "protocol", "status", "executor", "stage", "result", "le", "instance"}
    for query in queries:
        for group in re.findall(r"by ?\(([^)]*)\)", query):
            assert {name.strip() for name in group.split(",")} <= labels, query
    # And the other way round: nothing is measured that nobody is shown.
    families = {re.sub(r"_(bucket|sum|count|created|total)$", "", name) for name in exported}
    shown = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in queried}
    assert {name for name in families if name.startswith("cliptune_")} == shown


@pytest.mark.e2e
def test_an_id_is_accepted_returned_and_logged_by_all(watched: Watched) -> None:
    items = [{"text": "a hat"}, {"image": base64_of(picture(3))}]
    answer = encode(watched, items, **{"X-Request-ID": "shop-42/abc"})
    assert answer.headers["X-Request-ID"] == "shop-42/abc"
    found = {line["service"]: line for line in watched.lines("shop-42/abc")}
    assert set(found) == {"gateway", "text", "vision"}
    assert found["gateway"]["endpoint"] == "/encode"
    assert found["gateway"]["status"] == "200"
    assert found["text"]["documents"] == 2
    refused = encode(watched, [{"text": ""}], **{"X-Request-ID": "refused-1"})
    assert refused.status_code == 422
    assert refused.headers["X-Request-ID"] == "refused-1"
    errors = [line["error"] for line in watched.lines("refused-1") if "error" in line]
    assert errors == ["BadInput"]


@pytest.mark.e2e
@pytest.mark.parametrize("given", ["", "a b", "x" * 129, 'q"}', "-dash", "é"])
def test_an_id_that_is_unfit_for_a_log_is_replaced(watched: Watched, given: str) -> None:
    answer = encode(watched, [{"text": "a hat"}], **{"X-Request-ID": given.encode("latin-1")})
    made = answer.headers["X-Request-ID"]
    assert len(made) == 32
    assert {line["service"] for line in watched.lines(made)} >= {"gateway", "text"}


@pytest.mark.e2e
def test_an_id_over_grpc(watched: Watched) -> None:
    from jina.proto import jina_pb2_grpc
    from jina.types.request.data import DataRequest

    def request(identity: str) -> DataRequest:
        asked = DataRequest()
        asked.header.exec_endpoint = "/search"
        asked.header.request_id = identity
        asked.data.docs = DocList[ClipDoc]([ClipDoc(text="a hat")])
        return asked

    with grpc.insecure_channel(watched.grpc.removeprefix("grpc://")) as channel:
        stub = jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel)
        metadata = (("x-request-id", "from-metadata"),)
        _, call = stub.process_single_data.with_call(request("q"), metadata=metadata)
        assert dict(call.initial_metadata())["x-request-id"] == "from-metadata"
        _, call = stub.process_single_data.with_call(request("from-header"))
        assert dict(call.initial_metadata())["x-request-id"] == "from-header"
        streamed = jina_pb2_grpc.JinaRPCStub(channel)
        asked = [request("in-stream-1"), request("in-stream-2")]
        answered = {answer.header.request_id for answer in streamed.Call(iter(asked))}
        assert answered == {"in-stream-1", "in-stream-2"}
    for identity in ("from-metadata", "from-header", "in-stream-1", "in-stream-2"):
        services = {line["service"] for line in watched.lines(identity)}
        # Nothing but a text: it passes the vision executor by.
        assert services == {"gateway", "text", "indexer"}, identity


@pytest.mark.e2e
def test_a_trace_goes_through_the_flow(watched: Watched) -> None:
    trace, caller = uuid.uuid4().hex, uuid.uuid4().hex[:16]
    url = f"{watched.http}/search"
    body = {"data": [{"image": base64_of(picture(4))}]}
    headers = {"traceparent": f"00-{trace}-{caller}-01"}
    assert requests.post(url, json=body, headers=headers, timeout=60).ok
    spans = {span.name: span for span in watched.collector.of(trace, 8)}
    gateway = spans["http /search"]
    assert gateway.parent == caller
    assert gateway.service == "cliptune-gateway"
    for executor in ("text", "vision", "indexer"):
        assert spans[f"{executor} /search"].parent == gateway.span
        assert spans[f"{executor} /search"].service == f"cliptune-{executor}"
    for stage in ("preprocess", "queue", "inference"):
        assert spans[stage].parent == spans["vision /search"].span
    assert spans["index"].parent == spans["indexer /search"].span
    assert len(spans) == 8


@pytest.mark.e2e
def test_health_checks_and_scrapes_are_not_counted(watched: Watched) -> None:
    paths = ("/healthz", "/readyz", "/metrics")
    assert all(requests.get(watched.http + path, timeout=30).ok for path in paths)
    seen = {key[1] for key in watched.metrics() if key[0] == "cliptune_requests_total"}
    assert not seen & set(paths)


def test_a_thread_works_for_the_request_that_asked_it() -> None:
    from cliptune.observability import request_ids

    def ask(identity: str) -> bool:
        request_ids.current.set(identity)
        return all(threads.submit(request_ids.current.get).result() == identity for _ in range(20))

    with request_ids.RequestThreads(2) as threads, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, "abcdefgh"))
    assert request_ids.current.get() == ""


def test_logs_are_one_json_object_a_line() -> None:
    import logging

    from cliptune.observability.logs import JsonFormatter

    try:
        raise ValueError("two\nlines \ud800")
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "f.py", 1, "it's %s", ("so",), (type(error), error, None)
        )
    line = JsonFormatter("text").format(record)
    assert "\n" not in line
    parsed = json.loads(line)
    assert parsed["message"] == "it's so"
    assert parsed["service"] == "text"
    assert "two\nlines" in parsed["exception"]
    assert time.strptime(parsed["time"][:19], "%Y-%m-%dT%H:%M:%S")
