"""The folder of decoded pixels: two processes at once, a full disk, and old ones that give way."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from docarray import DocList
from PIL import Image

from cliptune.data.pictures.pixel_cache import read_or_write
from cliptune.data.pictures.pixels import decode_documents
from cliptune.data.pictures.preprocessing import ImagePreprocessing
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, Unavailable

P = ImagePreprocessing((16, 16), (0.5,) * 3, (0.5,) * 3)
SIZE = (50, 100)  # a store of ten pictures has 150 kB
DAY = 24 * 3600


def picture_folder(folder: Path, count: int) -> DocList[ClipDoc]:
    folder.mkdir()
    docs = DocList[ClipDoc]()
    for number in range(count):
        colour = (number, 255 - number, 7)
        buffer = io.BytesIO()
        Image.new("RGB", (20, 20), colour).save(buffer, "PNG")
        (folder / f"{number:03}.png").write_bytes(buffer.getvalue())
        docs.append(ClipDoc(uri=str(folder / f"{number:03}.png")))
    return docs


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    head = """
        import sys, time, numpy as np
        from pathlib import Path
        from cliptune.data.pictures.pixel_cache import read_or_write
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def fill(root: Path, key: str, count: int = 10) -> Path:
    black = np.zeros((*SIZE, 3), dtype=np.uint8)
    read_or_write(root, key, ((str(i), black) for i in range(count)), count, SIZE)
    return root / key


def use_last(folder: Path, seconds_ago: float) -> None:
    then = time.time() - seconds_ago
    for entry in (folder, *folder.iterdir()):
        os.utime(entry, (then, then))


@pytest.mark.e2e
def test_of_two_processes_one_decodes(tmp_path: Path) -> None:
    code = """
        def decoded():
            for number in range(20):
                time.sleep(0.05)
                print("decoding", number)
                yield str(number), np.full((2, 2, 3), number, dtype=np.uint8)

        stored = read_or_write(Path(sys.argv[1]), "key", decoded(), 20, (2, 2))
        assert [stored.pixels[row, 1, 1, 2] for row in stored.rows.values()] == list(range(20))
        print("done")
    """
    both = [run(code, tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].split("\n") for process in both]
    assert all("done" in output for output in outputs), outputs
    assert sorted(map(len, outputs)) == [2, 22], "one of them decoded nothing"


@pytest.mark.e2e
def test_a_killed_builder_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    code = """
        def decoded():
            for number in range(1000):
                print("decoding", flush=True)
                time.sleep(0.01)
                yield str(number), np.zeros((50, 100, 3), dtype=np.uint8)

        read_or_write(Path(sys.argv[1]), "key", decoded(), 1000, (50, 100))
    """
    process = run(code, tmp_path)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.kill()
    process.communicate()
    [half] = [path for path in tmp_path.iterdir() if path.name.startswith(".key.")]
    fill(tmp_path, "key")
    assert half.exists(), "it might be another process's"
    use_last(half, 2 * DAY)
    fill(tmp_path, "another")
    assert not half.exists()
    assert read_or_write(tmp_path, "key", iter(()), 0, SIZE).pixels.shape == (10, *SIZE, 3)


@pytest.mark.e2e
def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """Writing fails in the middle, here at a limit of the process, as on a full disk."""
    code = """
        import resource
        from cliptune.errors import Unavailable
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        noise = np.random.default_rng(0).integers(0, 256, (50, 100, 3), dtype=np.uint8)
        decoded = ((str(i), noise) for i in range(50))
        try:
            read_or_write(Path(sys.argv[1]), "key", decoded, 50, (50, 100))
        except Unavailable as error:
            print("refused:", error)
    """
    output = run(code, tmp_path).communicate(timeout=60)[0]
    assert f"refused: 750000 bytes of decoded pictures can't be kept in {tmp_path}: " in output
    assert "File too large" in output
    assert "bytes are free there" in output
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]


def test_a_disk_that_is_too_small_is_known_before_anything_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="15000000000000000 bytes.*No space left on device"):
        read_or_write(tmp_path, "key", must_not_begin(), 10**12, SIZE)
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="Not a directory|File exists"):
        read_or_write(tmp_path / "file" / "pixels", "key", must_not_begin(), 10, SIZE)


def must_not_begin():  # type: ignore[no-untyped-def]
    raise AssertionError("it was decoded")
    yield


def test_the_longest_unused_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPTUNE_CACHE_GB", "0.00055")  # three stores and a half
    stores = {name: fill(tmp_path, name) for name in ("a", "b", "c", "d")}
    assert all(path.is_dir() for path in stores.values()), "all were used within the day"
    for name, days in (("a", 5), ("b", 4), ("c", 3), ("d", 2)):
        use_last(stores[name], days * DAY)
    read_or_write(tmp_path, "a", must_not_begin(), 10, SIZE)  # is used now
    mapped = read_or_write(tmp_path, "b", must_not_begin(), 10, SIZE).pixels
    use_last(stores["b"], 4 * DAY)
    fill(tmp_path, "e")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"a", "d", "e"}
    assert mapped.sum() == 0, "what is mapped can still be read"
    monkeypatch.setenv("CLIPTUNE_CACHE_GB", "lots")
    with pytest.raises(BadInput, match="CLIPTUNE_CACHE_GB is 'lots'"):
        fill(tmp_path, "f")


def test_a_data_set_of_files_comes_from_the_store_the_second_time(tmp_path: Path) -> None:
    docs = picture_folder(tmp_path / "pictures", 30)
    first = decode_documents(docs, P, cache_dir=tmp_path / "cache")
    [folder] = filter(Path.is_dir, (tmp_path / "cache").iterdir())
    use_last(folder, 100)
    second = decode_documents(docs, P, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert isinstance(second.pixels, np.memmap)
    assert time.time() - folder.stat().st_mtime < 50, "its use is noted"
