"""Settings: what they are read from, what is refused, and that nothing else reads them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from cliptune.errors import BadInput
from cliptune.settings import SECTIONS, Settings, current, variable_of

ROOT = Path(__file__).parent.parent
WRONG = {
    "cache_gb": "lots",
    "compile": "perhaps",
    "drain": "soon",
    "engine": "tpu",
    "grpc_port": "0",
    "clip_service_port": "65536",
    "hub_models": "laion/a/b",
    "index_storage": "int3",
    "log_format": "xml",
    "max_docs": "1e3",
    "metrics_port": "http",
    "onnx": "ja",
    "precision": "int3",
    "public_url": "http://[shop",
    "root_path": "a b",
    "traces": "http://collector",
    "trusted_proxies": "10.0.0.1/8",
}


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        if field != "home":
            monkeypatch.delenv(variable_of(field), raising=False)


def test_what_is_not_set_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.read()
    assert (settings.max_docs, settings.artifact, settings.fetch) == (256, "builtin", True)
    assert (settings.traces, settings.metrics_port, settings.log_format) == (None, None, "text")
    assert settings.index_uri == str(settings.home / "index")
    assert settings.pictures_dir == settings.home / "pictures"
    for blank in ("", "  "):
        monkeypatch.setenv("CLIPTUNE_MAX_DOCS", blank)
        monkeypatch.setenv("CLIPTUNE_TRACES", blank)
        assert Settings.read() == settings


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPTUNE_PRECISION", "int8")
    monkeypatch.setenv("CLIPTUNE_ONNX", "yes")
    monkeypatch.setenv("CLIPTUNE_SERVER", "grpc://trainer:52000")
    monkeypatch.setenv("CLIPTUNE_TRUSTED_PROXIES", " ::1, 10.0.0.0/8,")
    assert Settings.read(precision=None).precision == "int8"
    given = Settings.read(precision="bf16", onnx=False, server="", root_path="/shop/")
    assert (given.precision, given.onnx, given.server) == ("bf16", False, None)
    assert given.root_path == "/shop"
    assert list(map(str, given.trusted_proxies)) == ["::1/128", "10.0.0.0/8"]
    with pytest.raises(TypeError, match="no settings: precison"):
        Settings.read(precison="int8")


def test_an_engine_has_two_names_and_an_argument_wins_by_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Settings.read().served_engine is None
    assert Settings.read(onnx=True).served_engine == "onnx"
    monkeypatch.setenv("CLIPTUNE_ONNX", "1")
    assert Settings.read().served_engine == "onnx"
    assert Settings.read(onnx=False).served_engine is None
    for engine in ("torch", "openvino", "auto"):
        given = Settings.read(engine=engine)
        assert given.served_engine == engine
        assert given.environment()["CLIPTUNE_ONNX"] == "0", "for the processes of a Flow"
        with pytest.raises(BadInput, match=f"^onnx: .*'onnx', and engine is '{engine}': give only"):
            Settings.read(engine=engine, onnx=True)
        with monkeypatch.context() as patch:
            patch.setenv("CLIPTUNE_ENGINE", engine)
            assert Settings.read(onnx=True).served_engine == "onnx"
            with pytest.raises(BadInput, match="^CLIPTUNE_ONNX: "):
                current()
    monkeypatch.setenv("CLIPTUNE_ENGINE", "onnx")
    assert Settings.read().served_engine == "onnx"


def test_a_process_s_settings_follow_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert current() is current()
    monkeypatch.setenv("CLIPTUNE_MAX_DOCS", "7")
    assert current().max_docs == 7
    monkeypatch.delenv("CLIPTUNE_MAX_DOCS")
    assert current().max_docs == 256
    monkeypatch.setattr("cliptune.settings._last", None)
    monkeypatch.setattr("cliptune.settings._environment", dict[str, str]())
    assert current().max_docs == 256


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_value_is_repeated_with_what_could_be(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, value = variable_of(field), WRONG[field]
    with pytest.raises(BadInput) as refused:
        Settings.read(**{field: value})
    assert str(refused.value).startswith(field)
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadInput, match="use |such as") as refused:
        current()
    assert str(refused.value).startswith(variable)
    assert value in str(refused.value)


def test_numbers_are_whole_numbers_within_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("0", "-1", "many", "1e3", "1_000", "2147483648", "٣"):
        monkeypatch.setenv("CLIPTUNE_MAX_DOCS", value)
        with pytest.raises(BadInput, match="CLIPTUNE_MAX_DOCS is .*from 1 to 2147483647"):
            Settings.read()


def test_all_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPTUNE_DRAIN", "soon")
    monkeypatch.setenv("CLIPTUNE_METRICS_PORT", "99999")
    with pytest.raises(BadInput, match=r"METRICS_PORT.*; CLIPTUNE_DRAIN|DRAIN.*; CLIPTUNE_METRIC"):
        Settings.read()


def test_secrets_are_not_shown() -> None:
    settings = Settings.read(api_key="s3cret", milvus_token="s3cret")
    assert "s3cret" not in repr(settings)


def test_another_process_takes_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPTUNE_SERVER", "grpc://trainer:52000")
    monkeypatch.setenv("CLIPTUNE_MAX_DOCS", "7")
    given = Settings.read(
        server="", onnx=True, root_path="/shop", trusted_proxies="::1", cors_origins="http://a,b"
    )
    told = "from cliptune.settings import current; print(current().model_dump_json())"
    there = subprocess.run(
        [sys.executable, "-c", told], env=given.environment(), capture_output=True, check=True
    )
    assert there.stdout.decode().strip() == given.model_dump_json()


def test_choices_are_those_of_the_code_that_takes_them() -> None:
    from cliptune.index.metadata import Storage

    fields = Settings.model_fields
    assert get_args(fields["index_storage"].annotation) == (Storage, type(None))


def test_every_setting_stands_in_one_section() -> None:
    in_sections = [field for section in SECTIONS for field in section.model_fields]
    assert sorted(in_sections) == sorted(Settings.model_fields)


ELSEWHERE = {"METRICS_FOLDER", "_LAUNCHER_VARIABLES"}
"""Names in the code of variables that aren't ours."""


def test_nothing_but_settings_asks_the_environment_for_them() -> None:
    for file in [*(ROOT / "cliptune").rglob("*.py"), *(ROOT / "executors").rglob("*.py")]:
        if file == ROOT / "cliptune" / "settings.py":
            continue
        for asked in _of_the_environment(ast.parse(file.read_text("utf-8"))):
            for part in ast.walk(asked):
                where = f"{file}: {ast.unparse(asked)}"
                if isinstance(part, ast.Constant):
                    assert not str(part.value).startswith("CLIPTUNE"), where
                # Behind a constant's name there could be one of ours.
                if isinstance(part, ast.Name | ast.Attribute):
                    name = part.id if isinstance(part, ast.Name) else part.attr
                    assert name in ELSEWHERE or not name.isupper(), where


def _of_the_environment(tree: ast.Module) -> Iterator[ast.expr]:
    """Each expression that takes something from the environment, or puts something there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.search(
            r"\b(getenv|environ\.\w+)$", ast.unparse(node.func)
        ):
            yield node
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
            yield node
