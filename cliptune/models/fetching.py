"""Artifacts from elsewhere: fetched, checked against a digest, and put in place whole.

For machines that share no disk with the one that wrote the artifact, such as the pods of encoders.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cliptune.data.store import located, store_failure
from cliptune.errors import (
    AlreadyExists,
    BadArtifact,
    BadInput,
    CliptuneError,
    NotFound,
    Unavailable,
    shown,
)
from cliptune.files import make_folder, new_folder, unzip
from cliptune.models.artifact import CHECKSUMS, TOWERS, Artifact, open_artifact
from cliptune.models.digest import combine_digests, weights_digest

Tell = Callable[[int, int], None]
"""Told how many bytes are there, and of how many (0: not known)."""

_DIGEST = re.compile(r"(sha256:)?[0-9a-f]{64}")
_OF_ALL = "sha256:"
_TIMEOUT = 60.0
"""Seconds without a byte after which a server is given up."""
_PLAIN = {"Accept-Encoding": "identity"}
_CHUNK = 2**20
_NOT_THERE = (404, 410)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def fetch_artifact(source: str, target: Path, digest: str, *, tell: Tell | None = None) -> Artifact:
    """Bring the artifact at `source` to the folder `target`, if it is the one that is meant.

    `source` is a zip at `https://`, `http://` or where fsspec reaches it (`s3://`, `gs://`, …), or
    the path of a zip or a folder. `digest` is that of the model, which is computed over the weights
    that have come; or `sha256:` and the SHA-256 of the artifact's `checksums.sha256`, which speaks
    for every byte of it, tokenizer and ONNX models included.

    `target` is there whole or not at all, whenever the process ends. What one that was killed has
    left beside it goes with the next. Of several processes that fetch to one place at once, one
    does, and the others wait. An artifact of that digest that is there already is taken as it is.

    Raises:
        BadInput: the digest is none, or the kind of URL is unknown.
        NotFound: nothing is at `source`.
        Unavailable: its server can't be reached, refuses, or broke off.
        BadArtifact: what came is damaged, or not what is meant.
        AlreadyExists: something else is at `target`.
    """
    if not _DIGEST.fullmatch(digest):
        raise BadInput(
            f"digest is {shown(digest)}: use the model's, 64 hexadecimal digits as `digest` in the "
            f"artifact's metadata.yml, or {_OF_ALL} and those that `sha256sum {CHECKSUMS}` prints"
        )
    with _workplace(target) as work:
        if os.path.lexists(target):
            return _there_already(target, digest)
        where, brought = _without_secrets(source), work / "artifact"
        if "://" in source:
            archive = work / "artifact.zip"
            _download(source, archive, tell or (lambda done, total: None))
        else:
            archive = Path(source)
        if not archive.exists():
            raise NotFound(f"no artifact at {where}")
        try:
            artifact = _unpacked(archive, brought)
            _check(artifact, digest, where)
        except BadArtifact as error:
            words = str(error).replace(str(brought), where).replace(str(archive), where)
            raise BadArtifact(words) from error
        os.rename(brought, target)
    return Artifact(target, artifact.metadata)


def _unpacked(archive: Path, folder: Path) -> Artifact:
    with new_folder(folder) as beside:
        if archive.is_dir():
            shutil.copytree(archive, beside, dirs_exist_ok=True)
        else:
            unzip(archive, beside)
    return open_artifact(folder)


def digest_of(artifact: Artifact, *, of_all: bool = False) -> str:
    """The model digest of the weights that are there, or with `of_all` that of all its files.

    Raises:
        BadArtifact: its weights or its config are of another form.
    """
    if of_all:
        sums = (artifact.path / CHECKSUMS).read_bytes()
        return _OF_ALL + hashlib.sha256(sums).hexdigest()
    try:
        text, vision = (_weights_digest(artifact.path, tower) for tower in TOWERS)
        return combine_digests(text, vision, artifact.model_cfg)
    except (SafetensorError, OSError, ValueError, LookupError) as error:
        raise BadArtifact(f"{artifact.path}: the weights can't be read: {error}") from error


def _weights_digest(folder: Path, tower: str) -> str:
    with safe_open(folder / "models" / tower / "model.safetensors", framework="pt") as opened:
        return weights_digest(_Tensors(opened))


class _Tensors(Mapping[str, Tensor]):
    """A file's tensors by their names, each read when it is asked for: a model needs no memory."""

    def __init__(self, opened: Any) -> None:
        """Take what `safe_open` gives, which has no types."""
        self._opened = opened
        self._names: list[str] = opened.keys()

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._opened.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _check(artifact: Artifact, digest: str, where: str) -> None:
    actual = digest_of(artifact, of_all=digest.startswith(_OF_ALL))
    if actual != digest:
        raise BadArtifact(f"the artifact at {where} has the digest {actual}, and {digest} is meant")


def _there_already(target: Path, digest: str) -> Artifact:
    """What is at `target`, if it is what is meant."""
    try:
        artifact = open_artifact(target)
        _check(artifact, digest, str(target))
    except (CliptuneError, OSError) as error:
        raise AlreadyExists(f"{target} is there already: remove it first ({error})") from error
    return artifact


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target` for one process at a time; gone in the end."""
    make_folder(target.parent)
    work = target.with_name(f".{target.name}.fetching")
    while True:
        make_folder(work)
        try:
            handle = os.open(work, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # another process has just done its work
            continue
        fcntl.flock(handle, fcntl.LOCK_EX)
        # The one that was waited for has removed it meanwhile.
        if work.is_dir() and os.path.samestat(os.fstat(handle), work.stat()):
            break
        os.close(handle)
    try:
        for left in work.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(handle)


def _download(url: str, path: Path, tell: Tell) -> None:
    """Write what is at `url` to `path`."""
    if url.partition("://")[0].lower() in ("http", "https"):
        _download_from_web(url, path, tell)
        return
    system, remote = located(url)
    try:
        total = int(system.size(remote) or 0)
        with system.open(remote, "rb", block_size=_CHUNK) as opened, path.open("wb") as file:
            while chunk := opened.read(_CHUNK):
                file.write(chunk)
                tell(file.tell(), total)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise
        raise store_failure(url, error, "artifact") from error


def _download_from_web(url: str, path: Path, tell: Tell) -> None:
    where = _without_secrets(url)
    try:
        with (
            httpx.stream(
                "GET", url, headers=_PLAIN, follow_redirects=True, timeout=_TIMEOUT
            ) as answer,
            path.open("wb") as file,
        ):
            if answer.status_code != httpx.codes.OK:
                kind = NotFound if answer.status_code in _NOT_THERE else Unavailable
                raise kind(f"artifact {where}: the server answers {answer.status_code}")
            total = int(answer.headers.get("Content-Length", 0))
            for chunk in answer.iter_raw(_CHUNK):
                file.write(chunk)
                tell(file.tell(), total)
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
        words = str(error).replace(url, where) or type(error).__name__
        raise Unavailable(f"artifact {where}: {words}") from error


def _without_secrets(url: str) -> str:
    """A URL as errors repeat it: without a password, or the query of one that is signed."""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets without an address; who fetches it says so
        return shown(url.partition("://")[0] + "://…")
    if not parts.netloc:
        return shown(url)
    return shown(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")
