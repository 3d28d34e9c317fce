"""A hook of mkdocs: links from `docs/` to other files of the repository lead somewhere on the site.

The files in `docs/` are read on a code host too, so that they link to `../CONTRIBUTING.md` or
`../monitoring/prometheus.yml` as any file does. What they link to joins the site under `project/`:
Markdown files as pages (and what these link to), other files for download.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = "project/"
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
_LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside `docs/` that pages link to."""
    root = _root(config)
    unread = [file.src_uri for file in files.documentation_pages()]
    while unread:
        page = unread.pop()
        for target in _targets(page, root):
            uri = _on_site(target, root)
            if files.get_file_from_path(uri) is None and (root / _in_repository(uri)).is_file():
                path = str(root / _in_repository(uri))
                files.append(File.generated(config, uri, abs_src_path=path))
                if uri.endswith(".md"):
                    unread.append(uri)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the page's links to where their files are on the site."""
    root = _root(config)
    here = posixpath.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = _target(page.file.src_uri, link[0])
        known = files.get_file_from_path(uri := _on_site(target, root))
        return posixpath.relpath(uri, here or ".") if known else link[0]

    return _LINK.sub(moved, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that would load something from elsewhere when it is read.

    Raises:
        PluginError: with the page and the element.
    """
    if element := _LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {element[0]}")
    return output


def _root(config: MkDocsConfig) -> Path:
    return Path(config.docs_dir).parent


def _targets(page: str, root: Path) -> Iterator[str]:
    markdown = (root / _in_repository(page)).read_text("utf-8")
    return (_target(page, link[0]) for link in _LINK.finditer(markdown))


def _target(page: str, link: str) -> str:
    """What `link` on the site's `page` means in the repository: a path from its root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(_in_repository(page)), link))


def _in_repository(uri: str) -> str:
    """The file of the repository that is at `uri` on the site."""
    return uri.removeprefix(PROJECT) if uri.startswith(PROJECT) else f"docs/{uri}"


def _on_site(path: str, root: Path) -> str:
    """Where the repository's `path` is on the site; a folder is its README."""
    if (root / path).is_dir():
        path = f"{path}/README.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else PROJECT + path
