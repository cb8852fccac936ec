"""The documentation site: what `mkdocs.yml` hooks into, and what the tests read the same pages
with.

The pages are the repository's own Markdown files, in `docs` and beside it, and their links are such
as work between those files. On the site each page has a place of its own, so links are rewritten
when it is built: to the page, to a copy of the file that is linked, or, of a folder, to its name.
"""

import posixpath
import re
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
BESIDE_DOCS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "studies/README.md": "studies.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/LOG.md": "log.md",
}
"""Pages that do not lie in `docs`, and their places on the site."""
COPIES = "files"
"""Folder of the site for files that are linked and are no pages."""

_LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s]+)\)")
_PARSER = MarkdownIt("commonmark").enable("table")


# Reading pages


class CodeBlock(NamedTuple):
    """A block of code of a page."""

    language: str
    """What stands behind the fence; empty for an indented block."""
    title: str
    """The `title="…"` of the fence, or nothing."""
    text: str


def pages(root: Path = ROOT) -> list[Path]:
    """Every page of the site: what lies in `docs`, and beside it."""
    return [*sorted((root / "docs").glob("*.md")), *(root / name for name in BESIDE_DOCS)]


def links(text: str) -> list[str]:
    """Targets of links and images in a page, in order; code is left out."""
    found: list[str] = []
    for block in _PARSER.parse(text):
        for token in block.children or ():
            target = token.attrGet({"link_open": "href", "image": "src"}.get(token.type, ""))
            if target is not None:
                found.append(str(target))
    return found


def anchors(text: str) -> set[str]:
    """What `#…` can lead to in a page: its headings, as code hosts and the site name them."""
    tokens, found = _PARSER.parse(text), set()
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            words = "".join(token.content for token in inline.children or ())
            found.add(re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-"))
    return found


def code_blocks(text: str) -> list[CodeBlock]:
    """Blocks of code of a page, fenced and indented, in order."""
    found = []
    for token in _PARSER.parse(text):
        if token.type in ("fence", "code_block"):
            language, _, rest = token.info.strip().partition(" ")
            title = re.search(r'title="([^"]*)"', rest)
            found.append(CodeBlock(language, title[1] if title else "", token.content))
    return found


def code_spans(text: str) -> list[str]:
    """Code within the sentences of a page, in order."""
    return [
        token.content
        for block in _PARSER.parse(text)
        for token in block.children or ()
        if token.type == "code_inline"
    ]


# Building the site


def place(path: str) -> str:
    """Where a file of the repository lies on the site."""
    if path in BESIDE_DOCS:
        return BESIDE_DOCS[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{COPIES}/{path}{'' if PurePosixPath(path).suffix else '.txt'}"


def rewritten(text: str, path: str, root: Path = ROOT) -> str:
    """A page with its links as they are on the site.

    Args:
        text: The page.
        path: Where it lies in the repository.
        root: Of the repository.
    """

    def rewrite(link: re.Match[str]) -> str:
        words, target = link.groups()
        if re.match(r"[a-z]+:|#", target):
            return link[0]
        file, hash_, anchor = target.partition("#")
        linked = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
        if (root / linked).is_dir():
            return words
        there = posixpath.relpath(place(linked), posixpath.dirname(place(path)) or ".")
        return f"[{words}]({there}{hash_}{anchor})"

    return _LINK.sub(rewrite, text)


def on_files(files: "Files", *, config: "MkDocsConfig") -> "Files":
    """Add the pages beside `docs`, and copies of the files that pages link to."""
    from mkdocs.structure.files import File

    root = Path(config.config_file_path).parent
    for path, name in BESIDE_DOCS.items():
        text = (root / path).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text))
    linked = {
        posixpath.normpath(posixpath.join(page.relative_to(root).parent.as_posix(), target))
        for page in pages(root)
        for target in (link.partition("#")[0] for link in links(page.read_text(encoding="utf-8")))
        if target and ":" not in target
    }
    for path in sorted(linked):
        if place(path).startswith(f"{COPIES}/") and (root / path).is_file():
            files.append(File.generated(config, place(path), abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, *, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Rewrite the links of a page."""
    name = page.file.src_uri
    path = {there: here for here, there in BESIDE_DOCS.items()}.get(name, f"docs/{name}")
    return rewritten(markdown, path, Path(config.config_file_path).parent)


def on_page_content(html: str, **_: Any) -> str:
    """Show the names that docstrings refer to (``:meth:`run```) as the code that they are."""
    return re.sub(r":(meth|class|func|data|mod|attr|exc):(?=<code)", "", html)
