"""Writing files and folders whole or not at all, and unzipping without leaving the folder.

**Who may read them.** What lies in CLIPTUNE_HOME (runs, data sets, caches, logs) and what its
writer calls `private` (an index, API keys) is its owner's alone: files 0600, folders 0700. All else
follows the umask. Only in a folder that a group shares on purpose (setgid and writable for the
group, as Kubernetes' `fsGroup` makes a volume) the group has what the owner has: 0660 and 2770.
What is there already keeps its mode.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cliptune.errors import AlreadyExists, BadArtifact
from cliptune.settings import current

MAX_UNZIPPED_BYTES = 64 * 2**30


def open_file(path: Path, flags: int, *, private: bool = False) -> int:
    """`os.open`, with the mode that the module's docstring says for a file that it makes."""
    if not (private or _in_home(path)):
        return os.open(path, flags | os.O_CLOEXEC, 0o666)
    mode = 0o660 if _is_shared(path.parent) else 0o600
    handle = os.open(path, flags | os.O_CLOEXEC, mode)
    if mode == 0o660 and flags & os.O_CREAT:
        with suppress(PermissionError):  # another one's, who has seen to it
            os.fchmod(handle, mode)  # whatever the umask takes from the group
    return handle


@contextmanager
def locked(path: Path, *, private: bool = False) -> Iterator[None]:
    """Hold a lock on the file at `path`, which is made: one process or thread at a time.

    The system frees it if its holder is killed. Without locks (Windows) it holds nobody up.

    Raises:
        OSError: the file can't be made.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = open_file(path, os.O_RDWR | os.O_CREAT, private=private)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def make_folder(path: Path, *, private: bool = False, exist_ok: bool = True) -> Path:
    """Make the folder `path`, and those above it that are missing, if it isn't there.

    With `private` the last one is its owner's alone, even outside of CLIPTUNE_HOME.

    Raises:
        FileExistsError, NotADirectoryError: a file is in the way, or without `exist_ok` a folder.
    """
    if not exist_ok and path.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    missing = []
    for folder in (path, *path.parents):
        if folder.is_dir():
            break
        missing.append(folder)
    for folder in reversed(missing):
        own = (private and folder == path) or _in_home(folder)
        try:
            os.mkdir(folder, 0o700 if own else 0o777)
        except FileExistsError:
            if not folder.is_dir():  # else another process was first
                raise
            continue
        if own and _is_shared(folder.parent):
            os.chmod(folder, 0o2770)  # noqa: S103 - the group that shares it, nobody else
    return path


def guard_process(folder: Path) -> None:
    """Have all files that this process makes be as private as those in CLIPTUNE_HOME are.

    For a process of its own whose libraries write into `folder` by themselves.
    """
    os.umask(0o007 if _is_shared(folder) else 0o077)


def write_bytes(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write `data` beside `path`, flush it to disk and rename it there."""
    with new_file(path, private=private) as beside:
        beside.write_bytes(data)


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode(), private=private)


@contextmanager
def new_file(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Write an empty file beside `path`; it takes that name only if the block succeeds.

    For what is too large to be made in memory, as `write_bytes` needs it.
    """
    make_folder(path.parent)
    beside = _beside(path)
    os.close(open_file(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, private=private))
    try:
        yield beside
        _sync(beside)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(path: Path, *, replace: bool = False, private: bool = False) -> Iterator[Path]:
    """Fill a temporary folder beside `path`; it takes that name only if the block succeeds.

    By then all in it is on the disk itself, so that a power cut leaves no empty files there, and
    has the mode of what is made here, whatever modes it was copied with or its writers chose.
    With `replace`, a folder that is already there gives way to the new one.
    """
    make_folder(path.parent)
    beside = make_folder(_beside(path), private=private)
    try:
        yield beside
        mode = stat.S_IMODE(beside.stat().st_mode)
        for written in beside.rglob("*"):
            os.chmod(written, mode if written.is_dir() else mode & 0o666)
            _sync(written)
        if replace and path.exists():
            old = make_folder(path.with_name(f"{beside.name}.old"), private=True)
            os.replace(path, old / "old")
            os.replace(beside, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(beside, path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def remove_folder(path: Path) -> None:
    """Remove the folder `path`; its name goes first, so that nobody finds half of it there."""
    aside = path.with_name(f".{path.name}.deleted.{secrets.token_hex(4)}")
    os.replace(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A new hidden name beside `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}")


def _in_home(path: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(current().home))


def _is_shared(folder: Path) -> bool:
    """Whether a group shares the folder on purpose."""
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False
    return bool(mode & stat.S_ISGID and mode & stat.S_IWGRP)


def _sync(path: Path) -> None:
    """Have the system put the file or folder `path` on the disk itself."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some network file systems can't do it for folders
            raise
    finally:
        os.close(handle)


def zip_folder(folder: Path, target: Path) -> Path:
    """Zip `folder`'s files under their relative names to `target`, whole or not at all."""
    make_folder(target.parent)
    beside = _beside(target)
    handle = open_file(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        # Weights barely compress, and storing them lets a reader map them in place.
        with os.fdopen(handle, "w+b") as opened, zipfile.ZipFile(opened, "w") as archive:
            for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                archive.write(file, file.relative_to(folder))
        _sync(beside)
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return target


@contextmanager
def folder_or_zip(target: Path) -> Iterator[Path]:
    """Where to write what is to be at `target`: in it, or for a `.zip` in a folder that is zipped.

    Raises:
        AlreadyExists: there is something.
    """
    if target.exists():
        raise AlreadyExists(f"{target} is there already: choose another place, or remove it")
    if target.suffix != ".zip":
        yield target
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "artifact"
        yield folder
        zip_folder(folder, target)


def unzip(archive_path: Path, folder: Path, *, max_bytes: int = MAX_UNZIPPED_BYTES) -> None:
    """Unzip into `folder`; a member outside it, a link, or too many bytes raise `BadArtifact`."""
    root = folder.resolve()
    try:
        archive = zipfile.ZipFile(archive_path)
    except (zipfile.BadZipFile, OSError) as error:
        raise BadArtifact(f"{archive_path}: not a readable zip file ({error})") from error
    with archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > max_bytes:
            raise BadArtifact(f"{archive_path}: unzips to {total} bytes, the limit is {max_bytes}")
        for member in members:
            target = (folder / member.filename).resolve()
            is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
            if is_link or not target.is_relative_to(root):
                raise BadArtifact(f"{archive_path}: unsafe member {member.filename!r}")
        try:
            archive.extractall(folder)
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise BadArtifact(f"{archive_path}: damaged zip file ({error})") from error
