"""What users import, type and call, by name: a change here is a change for them."""

from __future__ import annotations

from collections.abc import Iterator

import typer.main
from click import Command

import cliptune
import cliptune.callback
import cliptune.serving
from cliptune.cli.app import app
from cliptune.protocol.endpoints import SEARCH_FLOW, TRAIN_FLOW

LIBRARY = """
    AsyncClient Client ClipDoc Experiment Match QueryDoc QueryPart RankDoc RankMatch Run
    SearchResult TwoTowers build_model callback connect create_experiment delete_experiment
    delete_experiments delete_run delete_runs describe_models encode errors fit get_experiment
    get_model get_run list_callbacks list_experiments list_model_options list_models list_runs
    mine pull push quantize_embeddings
"""
CALLBACKS = """
    BestModelCheckpoint CALLBACKS Callback EarlyStopping EvaluationCallback MLflowLogger
    TensorBoardLogger TrainingCheckpoint WandBLogger WiSEFTCallback
"""
SERVING = "AsyncClient Client RemoteSession serve serve_training"
COMMANDS = """
    calibrate cancel compare data/check data/correct data/suspects demo download evaluate export
    feedback/delete feedback/export fetch fit index/add index/clear index/delete index/get
    index/migrate index/prune index/repair index/restore index/snapshot index/status index/tags
    index/tune keys/list keys/new keys/revoke logs mcp mine models push quantize report resume runs
    runs/delete search serve shorten split swap train-server tune wise-ft
"""
SEARCH_CALLS = """
    / /encode /index /index_texts /update /rank /search /feedback /get /delete /ids /tags /status
    /clear
"""
TRAIN_CALLS = """
    /fit /status /logs /metrics /runs /experiments /evaluate /artifact /cancel /data
"""


def test_what_is_imported() -> None:
    assert sorted(cliptune.__all__) == LIBRARY.split()
    assert sorted(cliptune.callback.__all__) == sorted(CALLBACKS.split())
    assert sorted(cliptune.serving.__all__) == SERVING.split()


def test_what_is_typed() -> None:
    assert sorted(_commands(typer.main.get_command(app), "")) == COMMANDS.split()


def test_what_is_called() -> None:
    assert sorted(SEARCH_FLOW) == sorted(SEARCH_CALLS.split())
    assert sorted(TRAIN_FLOW) == sorted(TRAIN_CALLS.split())


def _commands(command: Command, path: str) -> Iterator[str]:
    parts: dict[str, Command] = getattr(command, "commands", {})
    if path and (not parts or getattr(command, "invoke_without_command", False)):
        yield path
    for name, part in parts.items():
        yield from _commands(part, f"{path}/{name}" if path else name)
