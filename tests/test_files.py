"""Who may read what is written: by the umask, by CLIPTUNE_HOME, by what is called private."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cliptune.files import (
    guard_process,
    make_folder,
    new_folder,
    open_file,
    write_bytes,
    write_text,
    zip_folder,
)


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=["022", "077", "002"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPTUNE_HOME", str(tmp_path / "a" / "home"))
    return tmp_path / "a" / "home"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write_all(folder: Path, **private: bool) -> list[Path]:
    """One file or folder by each writer; returns all that is in `folder` then, and itself."""
    write_text(folder / "text", "x", **private)
    write_bytes(folder / "text", b"y", **private)
    with new_folder(folder / "made", **private) as beside:
        (beside / "part").mkdir(mode=0o700)
        (beside / "part" / "copied").touch(mode=0o600)
    with new_folder(folder / "made", replace=True, **private) as beside:
        (beside / "copied").touch(mode=0o600)
    os.close(open_file(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, **private))
    return [folder, *folder.rglob("*")]


def test_a_users_own_folder_follows_the_umask(tmp_path: Path, home: Path, umask: int) -> None:
    made = write_all(make_folder(tmp_path / "artifacts" / "deep"))
    made.append(zip_folder(tmp_path / "artifacts", tmp_path / "out" / "a.zip"))
    for path in made:
        assert mode(path) == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_home_is_its_owners_alone(tmp_path: Path, home: Path, umask: int) -> None:
    made = write_all(make_folder(home / "runs" / "default"))
    for path in [home, home / "runs", *made]:
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    assert mode(home.parent) == 0o777 & ~umask  # only what is cliptune's


def test_private_outside_of_home(tmp_path: Path, home: Path, umask: int) -> None:
    made = write_all(make_folder(tmp_path / "deep" / "index", private=True), private=True)
    for path in made:
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    assert mode(tmp_path / "deep") == 0o777 & ~umask


def test_what_is_there_keeps_its_mode_and_lets_nobody_in(home: Path, umask: int) -> None:
    home.mkdir(parents=True, mode=0o755)
    home.chmod(0o755)
    write_text(home / "file", "x")
    (home / "file").chmod(0o644)
    make_folder(home / "runs")
    assert (mode(home), mode(home / "runs")) == (0o755, 0o700)
    write_text(home / "file", "y")  # anew, so for its owner
    assert mode(home / "file") == 0o600


def test_a_link_to_home_is_home(tmp_path: Path, home: Path) -> None:
    make_folder(home)
    (tmp_path / "link").symlink_to(home)
    write_text(tmp_path / "link" / "file", "x")
    assert mode(home / "file") == 0o600


def test_a_group_that_shares_a_folder_on_purpose(home: Path, umask: int) -> None:
    """As Kubernetes makes a volume for `fsGroup`: setgid, and writable for the group."""
    home.mkdir(parents=True)
    home.chmod(0o2775)
    for path in write_all(make_folder(home / "runs"))[1:]:
        assert mode(path) == (0o2770 if path.is_dir() else 0o660), path
    assert mode(home / "runs") == 0o2770


def test_a_guarded_process_and_its_libraries(tmp_path: Path, umask: int) -> None:
    guard_process(tmp_path)
    (tmp_path / "by-a-library").touch()
    assert mode(tmp_path / "by-a-library") == 0o600


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((FileExistsError, NotADirectoryError)):
        make_folder(tmp_path / "file")
    with pytest.raises((FileExistsError, NotADirectoryError)):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(FileExistsError):
        make_folder(tmp_path, exist_ok=False)
