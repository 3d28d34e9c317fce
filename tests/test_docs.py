"""The documentation: nothing is left out of it, and its references are of what there is."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import cliptune
from cliptune import callback
from cliptune.settings import Settings, variable_of
from scripts.docs import command_line, docstrings, links, settings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SETTING = re.compile(r"\bCLIPTUNE_[A-Z0-9_]*[A-Z0-9]\b")


def test_the_navigation_lists_every_page_once() -> None:
    listed = list(_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    written = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")]
    outside = [page for page in listed if page.startswith(links.PROJECT)]
    assert sorted(listed) == sorted(written + outside)
    for page in outside:
        assert (ROOT / page.removeprefix(links.PROJECT)).is_file(), page


def _pages(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _pages(part)


def test_the_settings_page_is_made_of_the_settings() -> None:
    page = (DOCS / "settings.md").read_text("utf-8")
    assert settings.with_tables(page) == page, "python -m scripts.docs.settings writes it"
    rows = re.findall(r"^\| `(CLIPTUNE_\w+)` \|", page, re.M)
    assert sorted(rows) == sorted(map(variable_of, Settings.model_fields))
    assert "| `CLIPTUNE_MAX_DOCS` | `256` | 1 to 2147483647 | documents in one request |" in page


def test_every_setting_that_anything_names_is_one() -> None:
    known = set(map(variable_of, Settings.model_fields))
    code = [*(ROOT / "cliptune").rglob("*.py"), *(ROOT / "executors").rglob("*")]
    deployed = [*(ROOT / "k8s").rglob("*"), *(ROOT / "flows").rglob("*"), ROOT / "Dockerfile"]
    for file in [*code, *deployed, *DOCS.rglob("*.md"), ROOT / "README.md"]:
        if file.suffix in (".py", ".yml", ".yaml", ".md", "") and file.is_file():
            assert set(SETTING.findall(file.read_text("utf-8"))) <= known, file


def test_the_python_reference_has_every_public_name() -> None:
    described = set(re.findall(r"^::: (\S+)", _text("python", "callbacks", "client"), re.M))
    public = {f"cliptune.{name}" for name in cliptune.__all__ if name != "callback"}
    callbacks = {f"cliptune.callback.{name}" for name in callback.__all__ if name != "CALLBACKS"}
    options = {
        "cliptune.client.batching.SendingOptions",
        "cliptune.client.calls.SearchOptions",
        "cliptune.curation.mining_options.MiningOptions",
    }
    assert described == public | callbacks | options


def _text(*names: str) -> str:
    return "\n".join((DOCS / "reference" / f"{name}.md").read_text("utf-8") for name in names)


def test_the_command_line_reference_is_of_the_app() -> None:
    text = command_line.reference()
    fit = text.split("## cliptune fit\n")[1].split("\n## ")[0]
    assert "cliptune fit [OPTIONS] TRAIN_DATA" in fit
    assert re.search(r"^\| `--epochs` \| At least 0\. Default: `5`\. \|$", fit, re.M)
    assert "## cliptune keys new\n" in text
    assert "Environment: `CLIPTUNE_SEARCH_SERVER`. Default: `grpc://localhost:51000`." in text


def test_help_texts_are_what_they_are_in_a_table_of_markdown() -> None:
    assert (
        command_line._cell(command_line._text("a|b [bold]c[/bold]\n  d <e>")) == "a\\|b c d &lt;e>"
    )


@pytest.mark.parametrize(
    ("page", "link", "leads_to"),
    [
        ("index.md", "../CHANGELOG.md", "project/CHANGELOG.md"),
        ("how-to/train-elsewhere.md", "../../k8s", "project/k8s/README.md"),
        ("how-to/train-elsewhere.md", "../training.md", "training.md"),
        ("project/k8s/README.md", "../docs/swap.md", "swap.md"),
        ("project/k8s/README.md", "base/config.env", "project/k8s/base/config.env"),
    ],
)
def test_links_lead_to_the_same_file_on_the_site(page: str, link: str, leads_to: str) -> None:
    assert links._on_site(links._target(page, link), ROOT) == leads_to


def test_a_page_that_would_load_something_from_elsewhere_is_refused() -> None:
    refused = (
        '<script src="https://cdn.example/x.js"></script>',
        "<link rel=stylesheet href=//fonts.example/x.css>",
        '<img alt="" src="http://pixel.example/1.gif">',
    )
    for element in refused:
        assert links._LOADED.search(element), element
    for element in ('<a href="https://example.org">', '<img src="results.png">'):
        assert not links._LOADED.search(element), element


def test_docstrings_lose_the_second_colon_of_a_block() -> None:
    text = "First line.\n\n::\n\n    a = 1\n\nAnd so::\n\n    b::c\n"
    assert docstrings.plain(text) == "First line.\n\n\n    a = 1\n\nAnd so:\n\n    b::c\n"


def test_every_link_between_files_leads_to_a_file() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for name in tracked:
        file = ROOT / name
        for link in re.findall(r"\]\(([^)\s#]+)", file.read_text("utf-8")):
            if not re.match(r"[a-z]+:", link):
                assert (file.parent / link).exists(), f"{name}: {link}"


def test_the_old_versions_whose_faults_are_told_are_those_of_the_lock() -> None:
    page = (DOCS / "security.md").read_text("utf-8")
    section = page.split("## Old versions")[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| ([a-z0-9]+) ([0-9.]+) \|", section, re.M))
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    locked = dict(re.findall(r"^([a-z0-9._-]+)==([^ ]+)", lock, re.M))
    assert len(told) > 5
    assert told == {name: locked[name] for name in told}


def test_errors_in_the_troubleshooting_are_those_of_the_code() -> None:
    page = (DOCS / "troubleshooting.md").read_text("utf-8")
    quoted = re.findall(r"^```text\n(.+?)\n```$", page, re.M | re.S)
    assert len(quoted) > 20
    messages = list(_messages())
    for text in quoted:
        parts = [re.escape(part.strip()) for part in text.split("…") if part.strip()]
        pattern = re.compile(".*".join(parts), re.S)
        assert any(pattern.search(message) for message in messages), text


def _messages() -> Iterator[str]:
    """Every string of the code, with … for the values in it."""
    for file in [*(ROOT / "cliptune").rglob("*.py"), *(ROOT / "executors").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant)
                              else "…" for part in node.values)  # fmt: skip
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
