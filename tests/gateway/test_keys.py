"""API keys in a file that changes, and how fast each may ask."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.errors import BadInput, Forbidden, Overloaded, RateLimited, Unauthorized
from cliptune.gateway.access.admission import Admission, TokenBucket
from cliptune.gateway.access.api_keys import KeyFile, digest_of, make_key, new_key, read_keys
from cliptune.protocol.endpoints import TRAIN_FLOW
from cliptune.settings import Settings

DIGEST = "sha256:" + "ab" * 32


def write(path: Path, *keys: tuple[str, str, str]) -> Path:
    """A keys file of (key, name, role)."""
    path.write_text("\n".join(make_key(*key).line() for key in keys) + "\n")
    return path


def test_a_line_says_what_a_key_may(tmp_path: Path) -> None:
    line = make_key("secret", "shop", "write", 2.5, 100).line()
    assert line == f"shop sha256:{digest_of('secret').hex()} role=write requests=2.5 documents=100"
    [found] = read_keys(f"# comment\n\n  {line}  # note\n", "f")
    assert found == make_key("secret", "shop", "write", 2.5, 100)
    assert read_keys(f"a {DIGEST}", "f")[0].role == "search", "the least is the default"
    assert len({new_key() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("shop", "line 2: expected NAME sha256:DIGEST"),
        ("shop ct_thekeyitself", "line 2: expected"),
        (f"sh/op {DIGEST}", "sh/op"),
        (f"shop {DIGEST} role=root", "'root': use one of search"),
        (f"shop {DIGEST} requests=0", "above 0"),
        (f"shop {DIGEST} requests=nan", "above 0"),
        (f"shop {DIGEST} requests=many", "not a number"),
        (f"shop {DIGEST} role=write role=admin", "once each"),
        (f"shop {DIGEST} colour=red", "expected role="),
    ],
)
def test_a_wrong_line_is_named_and_no_key_is_shown(line: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        read_keys(f"# keys\n{line}", "keys.txt")
    assert "keys.txt" in str(caught.value)
    assert "thekeyitself" not in str(caught.value)


def test_keys_come_and_go_while_the_server_runs(tmp_path: Path) -> None:
    file = KeyFile(write(tmp_path / "keys", ("old", "shop", "search")))
    assert file.find("old").name == "shop"
    assert file.find("new") is None
    # Of the same length, within the clock's resolution, in place.
    write(tmp_path / "keys", ("new", "shop", "search"))
    assert file.find("old") is None
    assert file.find("new").name == "shop"


def test_a_kubernetes_secret_changes_its_links(tmp_path: Path) -> None:
    for name, key in (("..1", "old"), ("..2", "new")):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "keys", (key, "shop", "search"))
        os.utime(tmp_path / name / "keys", (1_000_000, 1_000_000))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys").symlink_to("..data/keys")
    file = KeyFile(tmp_path / "keys")
    assert file.find("old")
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert file.find("old") is None
    assert file.find("new")


def test_a_broken_file_keeps_the_keys_from_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "keys", ("old", "shop", "search"))
    file = KeyFile(path)
    path.write_text("what is this")
    assert file.find("old")
    path.unlink()
    assert file.find("old")
    assert "line 1" in caplog.text
    assert "No such file" in caplog.text
    write(path, ("new", "shop", "search"))
    assert file.find("old") is None
    with pytest.raises(BadInput, match="No such file"):
        KeyFile(tmp_path / "nothing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="not a text"):
        KeyFile(tmp_path / "binary")


def test_roles(tmp_path: Path) -> None:
    keys = [(role, role, role) for role in ("search", "write", "monitor", "admin")]
    admission = Admission(Settings.read(), KeyFile(write(tmp_path / "keys", *keys)))

    def allowed(role: str) -> set[str]:
        found = set()
        for endpoint in (
            "/",
            "/search",
            "/status",
            "/index",
            "/delete",
            "/clear",
            "/metrics",
            "/x",
        ):
            try:
                with admission.admit(role, endpoint, 1):
                    found.add(endpoint)
            except Forbidden:
                pass
        return found

    assert allowed("search") == {"/", "/search", "/status"}
    assert allowed("write") == {"/", "/search", "/status", "/index", "/delete"}
    assert allowed("monitor") == {"/metrics"}
    assert len(allowed("admin")) == 8, "what nobody has thought of is the administrator's"
    admission.endpoints = TRAIN_FLOW
    assert not allowed("search") | allowed("write")
    for presented in (None, "", "nope"):
        with pytest.raises(Unauthorized):
            admission.check(presented)
    assert admission.pending == admission.documents == 0


def test_without_a_file_everybody_may_do_everything() -> None:
    with Admission(Settings.read()).admit(None, "/clear", 0):
        pass


def test_a_buckets_rate() -> None:
    bucket = TokenBucket(rate=10)
    start = bucket.since
    assert bucket.size == 50
    assert bucket.wait(50, start) == 0
    bucket.take(50)
    assert bucket.wait(1, start) == pytest.approx(0.1)
    assert bucket.wait(1, start + 0.1) == 0
    # More than it ever holds: when it is full; those after it wait for the debt.
    assert bucket.wait(500, start + 4) == pytest.approx(1)
    assert bucket.wait(500, start + 5) == 0
    bucket.take(500)
    assert bucket.wait(1, start + 5) == pytest.approx(45.1)


def test_limits_of_a_key(tmp_path: Path) -> None:
    slow = make_key("slow", "slow", "search", requests=0.001).line()
    many = make_key("many", "many", "search", documents=0.01).line()
    (tmp_path / "keys").write_text(f"{slow}\n{many}\n{make_key('free', 'free').line()}")
    admission = Admission(Settings.read(), KeyFile(tmp_path / "keys"))
    with admission.admit("slow", "/search", 1):
        pass
    with (
        pytest.raises(RateLimited, match="0.001 requests a second") as caught,
        admission.admit("slow", "/search", 1),
    ):
        pass
    assert 900 < caught.value.retry_after <= 1000
    with pytest.raises(RateLimited):
        admission.check("slow")
    with admission.admit("many", "/search", 200):
        pass
    with (
        pytest.raises(RateLimited, match="0.01 documents"),
        admission.admit("many", "/search", 1),
    ):
        pass
    with admission.admit("free", "/search", 200):
        pass


def test_the_queue_is_bounded() -> None:
    admission = Admission(
        Settings.read(max_pending=2, max_pending_docs=100, max_held=1000, max_streams=1)
    )
    with admission.admit(None, "/encode", 256):  # larger than the limit, but alone
        with pytest.raises(Overloaded, match="limit is 100"), admission.admit(None, "/encode", 1):
            pass
        with admission.admit(None, "/status", 0), pytest.raises(Overloaded, match="2 requests"):
            admission.check(None)
    assert (admission.pending, admission.documents) == (0, 0)
    admission.hold(5000)
    with pytest.raises(Overloaded, match="5000 bytes"):
        admission.hold(1)
    admission.hold(-5000)
    with (
        admission.admit_stream(None, "/logs"),
        pytest.raises(Overloaded, match="1 streams"),
        admission.admit_stream(None, "/logs"),
    ):
        pass
    assert admission.streams == 0


def test_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    run = CliRunner()
    made = run.invoke(app, ["keys", "new", "shop-web", "--requests", "5", "--file", str(path)])
    key = made.stdout.strip().splitlines()[0]
    assert key.startswith("ct_")
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert KeyFile(path).find(key).requests == 5
    run.invoke(app, ["keys", "new", "ops", "--role", "admin", "--file", str(path)])
    listed = run.invoke(app, ["keys", "list", "--file", str(path)])
    assert "shop-web" in listed.stdout
    assert "admin" in listed.stdout
    assert run.invoke(app, ["keys", "revoke", "shop-web", "--file", str(path)]).exit_code == 0
    assert KeyFile(path).find(key) is None
    again = run.invoke(app, ["keys", "revoke", "shop-web", "--file", str(path)])
    assert "no key 'shop-web'" in str(again.exception)
    assert isinstance(
        run.invoke(app, ["keys", "new", "a b", "--file", str(path)]).exception, BadInput
    )
