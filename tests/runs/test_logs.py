"""The log's form, and reading it while it is written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cliptune.runs.logs import (
    FolderRunLogger,
    LogReader,
    Progress,
    append_lines,
    follow,
    log_lines,
    read_log,
    read_progress,
)


def test_lines_have_the_form_of_the_published_log() -> None:
    assert log_lines("INFO", "Done ✨", "13:32:41") == ["[13:32:41] INFO     Done ✨"]
    metric = "Metric: 'clip-text-to-clip-vision_precision_at_k' Value: 0.28532"
    assert log_lines("DEBUG", metric, None) == [f"           DEBUG    {metric}"]


def test_a_message_of_several_lines_is_indented() -> None:
    assert log_lines("ERROR", "a\nb", "01:02:03") == [
        "[01:02:03] ERROR    a",
        "                    b",
    ]


def test_a_full_bar_has_the_form_of_the_published_log() -> None:
    bar = Progress("Training [5/5]", 195, 195, {"loss": 2.4191, "val_loss": 2.8034}, 330.2)
    assert re.fullmatch(
        r"  Training \[5/5\] ━+ 195/195 0:05:30 0:00:00 • loss: 2\.419 • val_loss: 2\.803",
        bar.line(),
    )


def test_a_bar_shows_how_far_it_is_and_how_long_it_will_take() -> None:
    line = Progress("x", 25, 100, elapsed=20).line()
    assert line.count("━") == 5
    assert line.endswith("25/100 0:00:20 0:01:00")
    assert "-:--:--" in Progress("x", 0, 100).line()


def test_the_clock_is_shown_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(["13:32:41", "13:32:41", "13:32:42"])
    monkeypatch.setattr("cliptune.runs.logs.time.strftime", lambda _: next(clock))
    logger = FolderRunLogger(tmp_path)
    for message in ("a", "b", "c"):
        logger.log("INFO", message)
    assert read_log(tmp_path).splitlines() == [
        "[13:32:41] INFO     a",
        "           INFO     b",
        "[13:32:42] INFO     c",
    ]


def test_a_finished_bar_is_one_line_and_an_unfinished_one_none(tmp_path: Path) -> None:
    logger = FolderRunLogger(tmp_path)
    for epoch in (1, 2):
        for step in range(1, 4):
            logger.progress(f"Training [{epoch}/2]", step, 3, loss=1 / step)
    logger.progress("Training [2/2]", 3, 3, loss=1 / 3)  # said again: no second line
    logger.progress("Evaluating", 1, 3)
    lines = read_log(tmp_path).splitlines()
    assert [line.split(" ━")[0] for line in lines] == ["  Training [1/2]", "  Training [2/2]"]
    assert all("3/3" in line and line.endswith("• loss: 0.333") for line in lines)
    bar = read_progress(tmp_path)
    assert bar is not None
    assert (bar.description, bar.done, bar.total) == ("Evaluating", 1, 3)
    logger.close()
    assert "Evaluating" in read_log(tmp_path).splitlines()[-1]


def test_events_are_json_lines(tmp_path: Path) -> None:
    logger = FolderRunLogger(tmp_path)
    logger.log("INFO", "two\nlines")
    logger.progress("Training [1/1]", 2, 2, loss=0.5)
    logger.metrics({"before": {"m": 0.1}, "epochs": [{"epoch": 1}, {"epoch": 2}]})
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["log", "progress", "metrics"]
    assert events[0]["message"] == "two\nlines"
    assert events[1]["values"] == {"loss": 0.5}
    assert events[2]["epoch"] == {"epoch": 2}
    assert json.loads((tmp_path / "metrics.json").read_text())["epochs"][1] == {"epoch": 2}


def test_a_reader_gives_whole_lines_once(tmp_path: Path) -> None:
    reader = LogReader(tmp_path)
    assert reader.lines() == []
    path = tmp_path / "run.log"
    path.write_bytes(b"a\nhalf ")
    assert reader.lines() == ["a"]
    assert reader.lines() == []
    with path.open("ab") as file:
        file.write("ünd\nrest".encode())
    assert reader.lines() == ["half ünd"]
    assert reader.rest() == ["rest"]
    assert reader.rest() == []


def test_a_terminal_bar_of_some_library_is_its_last_state(tmp_path: Path) -> None:
    (tmp_path / "run.log").write_bytes(b"1%\r50%\r100%\ndos\r\n")
    assert LogReader(tmp_path).lines() == ["100%", "dos"]


WRITER = """
import os, sys, time
from pathlib import Path
from cliptune.runs.logs import FolderRunLogger
folder = Path(sys.argv[1])
logger = FolderRunLogger(folder)
out = os.open(folder / 'run.log', os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for number in range(3000):
    logger.log('INFO', f'line {number}')
    if number % 50 == 0:
        os.write(out, b'noise ')   # a library's own output, cut in the middle of a line
        time.sleep(0.002)
        os.write(out, b'of a library\\n')
"""


def test_no_line_is_lost_or_doubled_while_another_process_writes(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
    lines = list(follow(tmp_path, lambda: writer.poll() is not None, interval=0.01))
    assert writer.returncode == 0
    assert lines == (tmp_path / "run.log").read_text().splitlines()
    numbers = [int(n) for n in re.findall(r"line (\d+)$", "\n".join(lines), re.MULTILINE)]
    assert numbers == list(range(3000))


def test_following_ends_soon_after_the_run_even_with_a_long_interval(tmp_path: Path) -> None:
    over = threading.Event()
    append_lines(tmp_path, ["a"])
    lines = follow(tmp_path, over.is_set, interval=60)
    assert next(lines) == "a"

    def end() -> None:
        append_lines(tmp_path, ["b"])
        over.set()

    threading.Timer(0.3, end).start()
    assert list(lines) == ["b"]


def test_bars_come_between_the_lines(tmp_path: Path) -> None:
    logger = FolderRunLogger(tmp_path)
    logger.log("INFO", "begin")
    logger.progress("Training [1/1]", 1, 3, loss=2.0)
    over = iter([False, False, True, True, True])
    items = follow(tmp_path, lambda: next(over), interval=0, bars=True)
    assert str(next(items)).endswith("begin")
    bar = next(items)
    assert isinstance(bar, Progress)
    assert (bar.done, bar.total, bar.values) == (1, 3, {"loss": 2.0})
