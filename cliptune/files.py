"""Writing files and folders whole or not at all, and unzipping without leaving the folder."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cliptune.errors import BadArtifact

MAX_UNZIPPED_BYTES = 64 * 2**30


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to disk and rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)  # mkstemp's own mode is for its owner alone
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Fill a temporary folder beside `path`; it takes that name only if the block succeeds.

    By then all in it is on the disk itself, so that a power cut leaves no empty files there.
    With `replace`, a folder that is already there gives way to the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield beside
        for written in beside.rglob("*"):
            if written.is_file():
                os.chmod(written, 0o644)  # safetensors' own mode, too, is for its owner alone
            _sync(written)
        os.chmod(beside, 0o755)  # noqa: S103 - mkdtemp's own mode is for its owner alone
        if replace and path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
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
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        # Weights barely compress, and storing them lets a reader map them in place.
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                archive.write(file, file.relative_to(folder))
        os.chmod(beside, 0o644)
        _sync(Path(beside))
        os.replace(beside, target)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return target


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
