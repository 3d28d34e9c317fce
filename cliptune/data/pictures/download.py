"""Pictures by URL, fetched in the user's own process: once, several at a time.

The user, or the user's table, names the URLs, so any host may be asked, one in the user's own
network too. (Servers fetch nothing of what clients name, unless their operator allows it: see
`cliptune.executors.fetching`, which has the same limits.) Redirects lead to http(s) only.
What lies in buckets (`s3://…`) is asked for as the store's own tools would.
`CLIPTUNE_FETCH=0` forbids all of it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cliptune.data.pictures.images import check_header
from cliptune.data.store import located, store_failure
from cliptune.errors import BadImage, BadInput
from cliptune.files import write_bytes
from cliptune.settings import current

MAX_REDIRECTS = 3
AT_ONCE = 16
CHUNK = 64 * 1024


@dataclass
class Downloads:
    """What became of some URLs."""

    files: dict[str, Path] = field(default_factory=dict)
    """By URL: where its picture is."""
    problems: dict[str, str] = field(default_factory=dict)
    """By URL: why there is none."""
    fetched: int = 0
    """How many were not there already."""


def is_url(uri: str | None) -> bool:
    """Whether `uri` is an http(s) URL."""
    return uri is not None and uri[:8].lower().startswith(("http://", "https://"))


def download_pictures(
    urls: Iterable[str],
    folder: str | Path,
    *,
    workers: int = AT_ONCE,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Downloads:
    """Fetch each picture once into `folder`; what is there already is not fetched again.

    A file is named by the SHA-256 of its URL, and written whole or not at all: a call that was
    cut short goes on when it is made again. Only what is a picture by its header is kept.

    Args:
        urls: of pictures, `https://…` or what fsspec knows (`s3://…`); repeated ones are fetched
            once.
        folder: made if it is not there.
        workers: how many are fetched at once.
        on_progress: told (done, total).

    Raises:
        BadInput: `CLIPTUNE_FETCH=0` forbids it.
        Unavailable: what speaks to such a store isn't installed.
    """
    check_allowed()
    wanted = list(dict.fromkeys(urls))
    downloads = Downloads()

    def one(url: str) -> bool:
        path = _place(Path(folder), url)
        if path.is_file():
            return False
        data = fetch(url) if is_url(url) else _fetch_object(url)
        check_header(data)
        write_bytes(path, data)
        return True

    with ThreadPoolExecutor(workers, thread_name_prefix="cliptune-download") as pool:
        begun = {pool.submit(one, url): url for url in wanted}
        try:
            for done, each in enumerate(as_completed(begun), 1):
                url = begun[each]
                try:
                    downloads.fetched += each.result()
                    downloads.files[url] = _place(Path(folder), url)
                except BadImage as error:
                    downloads.problems[url] = str(error)
                on_progress(done, len(wanted))
        finally:
            pool.shutdown(cancel_futures=True)
    return downloads


def download_once(urls: Iterable[str]) -> Downloads:
    """`download_pictures` into CLIPTUNE_HOME's cache, with a progress bar on a terminal.

    Raises:
        BadInput: `CLIPTUNE_FETCH=0` forbids it.
    """
    terminal = Console(stderr=True)
    columns = (TextColumn("Fetching pictures"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=terminal, disable=not terminal.is_terminal) as bar:
        task = bar.add_task("", total=None)
        return download_pictures(
            urls,
            current().cache_dir / "downloads",
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def fetch_all(urls: list[str]) -> list[bytes | BadImage]:
    """The bytes of each URL, several at a time, or why there are none; in order.

    Raises:
        BadInput: `CLIPTUNE_FETCH=0` forbids it.
    """
    check_allowed()

    def one(url: str) -> bytes | BadImage:
        try:
            return fetch(url)
        except BadImage as error:
            return error

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="cliptune-download") as pool:
        return list(pool.map(one, urls))


def check_allowed() -> None:
    """Raise `BadInput` if the settings forbid fetching."""
    if not current().fetch:
        raise BadInput("CLIPTUNE_FETCH=0 forbids fetching pictures by URL")


def fetch(url: str) -> bytes:
    """The bytes of one http(s) URL.

    Raises:
        BadImage: it is none, is not there, is too large or takes too long.
    """
    deadline = time.monotonic() + current().fetch_seconds
    place = url
    for _ in range(MAX_REDIRECTS + 1):
        if not is_url(place):
            raise BadImage(f"url {url[:200]!r}: {place[:200]!r} is no http or https URL")
        answer = _get(place, url[:200], deadline)
        if isinstance(answer, bytes):
            return answer
        try:
            place = urljoin(place, answer)
        except ValueError as error:
            raise BadImage(f"url {url[:200]!r}: redirected to {answer[:200]!r}") from error
    raise BadImage(f"url {url[:200]!r}: more than {MAX_REDIRECTS} redirects")


def _fetch_object(url: str) -> bytes:
    """The bytes of an object in a bucket, or of what else fsspec knows.

    Raises:
        BadImage: it is not there, may not be read, or is too large.
        Unavailable: what speaks to such a store isn't installed.
    """
    try:
        system, path = located(url)
    except BadInput as error:
        raise BadImage(f"url {url[:200]!r}: {error}") from error
    limit = current().fetch_bytes
    try:
        # No more than that is read, whatever the store says of its size.
        with system.open(path, "rb", block_size=min(limit, 2**20)) as file:
            data = bytes(file.read(limit + 1))
    except Exception as error:
        raise BadImage(str(store_failure(url, error, "picture"))) from error
    if len(data) > limit:
        raise BadImage(f"url {url[:200]!r} has more than {limit} bytes, the limit")
    return data


def _get(place: str, shown: str, deadline: float) -> bytes | str:
    """The body, or where the answer redirects to."""
    import certifi
    import urllib3

    left = max(0.1, deadline - time.monotonic())
    timeout = urllib3.Timeout(connect=left, read=left)
    headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "cliptune"}
    certificates = os.environ.get("SSL_CERT_FILE") or certifi.where()
    with urllib3.PoolManager(retries=False, timeout=timeout, ca_certs=certificates) as pool:
        try:
            response = pool.request(
                "GET", place, headers=headers, redirect=False, preload_content=False
            )
            try:
                if response.status in (301, 302, 303, 307, 308):
                    return str(response.headers.get("location", ""))
                if response.status != 200:
                    raise BadImage(f"url {shown!r}: the server answered {response.status}")
                return _read(response, shown, deadline)
            finally:
                response.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if isinstance(error, BadImage):
                raise
            raise BadImage(f"url {shown!r} can't be read: {type(error).__name__}") from error


def _read(response: object, shown: str, deadline: float) -> bytes:
    # read1: what has come, since one that sends a byte a second would hold a read for ever.
    read = response._fp.read1  # type: ignore[attr-defined]
    settings = current()
    parts = []
    size = 0
    while part := read(CHUNK):
        size += len(part)
        if size > settings.fetch_bytes:
            raise BadImage(f"url {shown!r} has more than {settings.fetch_bytes} bytes, the limit")
        if time.monotonic() > deadline:
            raise BadImage(f"url {shown!r} did not arrive within {settings.fetch_seconds} s")
        parts.append(part)
    announced = response.headers.get("content-length")  # type: ignore[attr-defined]
    if announced and announced.isdigit() and int(announced) != size:
        raise BadImage(f"url {shown!r}: {size} of {announced} bytes arrived")
    return b"".join(parts)


def _place(folder: Path, url: str) -> Path:
    digest = hashlib.sha256(url.encode(errors="surrogatepass")).hexdigest()
    return folder / digest[:2] / digest
