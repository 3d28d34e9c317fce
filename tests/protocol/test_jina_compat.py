"""Jina is as `jina_compat` changes it."""

from __future__ import annotations

import hashlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from jina.serve.runtimes.gateway.streamer import GatewayStreamer

from cliptune.protocol import jina_compat

CHANGED: dict[Callable[..., object], str] = {
    jina_compat.helper.get_default_grpc_options: "781fa68e5f325167",
    jina_compat.AsyncNewLoopRuntime.async_setup: "eff53688472fcff9",
    jina_compat.Pod._get_control_address: "0a8909e9b334e977",
    jina_compat.GRPCServer.shutdown: "d9ca06f48c48e9ca",
    jina_compat.WorkerRequestHandler.handle: "b71b2bce795b845c",
    jina_compat.WorkerRequestHandler._setup_req_doc_array_cls: "089df4b8713999b2",
    jina_compat.WorkerRequestHandler.process_data: "059bec85bb5c2913",
    jina_compat.Request.add_exception: "581ebbeb820719be",
    jina_compat._ConnectionStubs._init_stubs: "292d0364f5f375ef",
    jina_compat.serializer.DataRequestProto.SerializeToString: "917bccd37058428c",
    jina_compat.TopologyGraph._ReqReplyNode._handle_internalnetworkerror: "f342dda01e4e9b0d",
    jina_compat.TopologyGraph._ReqReplyNode._wait_previous_and_send: "0028a250e9989849",
    jina_compat.TopologyGraph._get_all_endpoints: "eac90b88e5ffe722",
    GatewayStreamer._get_endpoints_input_output_models: "0cd9bb66d2a41928",
}
"""What is replaced or called of Jina's private parts, and the SHA-256 of its source."""


@pytest.mark.parametrize("part", CHANGED, ids=lambda part: part.__qualname__)
def test_jina_is_as_it_was_when_it_was_changed(part: Callable[..., object]) -> None:
    """Read the new source beside the change that is made to it before you note its digest here."""
    source = inspect.getsource(inspect.unwrap(part))
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == CHANGED[part], source


def test_a_change_is_made_once() -> None:
    jina_compat.answer_before_ending(1.0)
    once = jina_compat.GRPCServer.shutdown
    jina_compat.answer_before_ending(2.0)
    assert jina_compat.GRPCServer.shutdown is once


def test_jina_counts_its_bytes_apart() -> None:
    jina_compat.serializer.DataRequestProto.SerializeToString(jina_compat.DataRequest())
    assert int(jina_compat.serializer.os.environ["JINA_GRPC_SEND_BYTES"]) >= 0
    assert "JINA_GRPC_SEND_BYTES" not in os.environ


def test_a_home_that_cannot_be_written_is_told_with_advice() -> None:
    """In /proc not even root makes a folder."""
    environment = {**os.environ, "HOME": "/proc/nobody"}
    command = [sys.executable, "-c", "import cliptune.protocol.jina_compat"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("cliptune.errors.Unavailable: Jina keeps a folder in the home directory")
    assert "/proc/nobody" in last
    assert "set HOME to a folder" in last
