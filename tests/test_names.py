"""Names of every kind: one rule, when something is made and when it is looked up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import cliptune
from cliptune import runs
from cliptune.data import source, store
from cliptune.errors import CliptuneError
from cliptune.executors import training
from cliptune.names import API_KEY, DATA_SET, EXPERIMENT, RUN, NameRule
from cliptune.sdk.models import find_artifact

LONG = "a" * 5000
HOSTILE = (
    *(LONG, "a/" * 300, "a" * 255 + "/" + "b" * 300, "../" * 9 + "etc/passwd", "/etc/passwd"),
    *("a\0b", "\ud800", "..", ".", "", " ", "a\n", "a b", "-rf", "C:\\x", "ä", "%2e%2e"),
)
names = st.one_of(
    st.text(max_size=40),
    st.text("a./\\-_ \0%", min_size=1, max_size=400),
    st.sampled_from(HOSTILE),
)


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("names")
        patch.setenv("CLIPTUNE_HOME", str(folder))
        patch.delenv("CLIPTUNE_SERVER", raising=False)
        runs.create_experiment()
        yield folder


def with_hostile(test: Any) -> Any:
    """Try the test with all of `HOSTILE`, and with what hypothesis thinks of."""
    for name in HOSTILE:
        test = example(name)(test)
    checks = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    return checks(given(names)(test))


LOOK_UPS = {
    "run": runs.get_run,
    "run of an experiment": lambda name: runs.get_run("a", name),
    "runs of an experiment": lambda name: runs.list_runs(name),
    "delete a run": runs.delete_run,
    "experiment": runs.get_experiment,
    "delete an experiment": runs.delete_experiment,
    "delete an experiment's runs": lambda name: runs.delete_runs(name),
    "make an experiment": lambda name: runs.create_experiment(name),
    "data set": store.pull,
    "documents": source.load_documents,
    "artifact": find_artifact,
    "model": lambda name: cliptune.get_model(name, select_model="clip-text"),
    "the server's run": lambda name: training.find_run({"name": name, "experiment_name": name}),
    "the server's runs": lambda name: training.manage({"action": "get", "name": name}),
    "the server's list": lambda name: training.manage({"experiment_name": name}),
    "the server's experiment": lambda n: training.manage_experiments({"action": "get", "name": n}),
    "the server's data": lambda name: training.store_part([], {"name": name}, Path("uploads")),
    "the server's model": lambda name: training.evaluate({"model": name, "query_data": "a"}),
    "the server's fit": lambda n: training.fit({"model": n, "train_data": n, "run_name": n}),
    "the server's artifact": lambda name: training.fit({"model_artifact": name, "train_data": "a"}),
}
TAKE_PATHS = ("documents", "artifact", "model")


@pytest.mark.parametrize("what", LOOK_UPS)
def test_hostile_names_are_refused_and_never_an_error_of_the_system(what: str, home: Path) -> None:
    @with_hostile
    def try_it(name: str) -> None:
        if what in TAKE_PATHS and os.path.exists(name):
            return
        before = set(os.listdir(home / "runs"))
        refused = None
        try:
            LOOK_UPS[what](name)
        except CliptuneError as error:
            refused = error
        made = set(os.listdir(home / "runs")) - before
        assert made <= {name}, "made under another name"
        if refused is None:
            assert RUN.allows(name), name
        else:
            assert refused.http_status in (404, 409, 422), refused
            assert len(str(refused)) < 3000, what

    try_it()


@pytest.mark.parametrize("rule", [RUN, EXPERIMENT, DATA_SET, API_KEY], ids=lambda rule: rule.kind)
@given(name=names)
@settings(deadline=None)
def test_what_a_rule_allows_is_a_plain_name_of_a_file(rule: NameRule, name: str) -> None:
    if rule.allows(name):
        assert os.path.basename(name) == name
        assert name not in (".", "..")
        assert len(os.fsencode(name)) <= rule.longest
        assert rule.check(name) == rule.look_up(name) == name


def test_errors_repeat_the_beginning_of_a_long_name_alone() -> None:
    with pytest.raises(CliptuneError, match=r"no run 'a{90,}…: names are 1 to 100 letters") as told:
        runs.get_run(LONG)
    assert len(str(told.value)) < 300
