"""What a built site holds: ids, links and texts of its pages, and the faults among them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Contents(HTMLParser):
    """One page."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    text: str = ""  # of the article, without what is code or a formula
    sections: dict[str, str] = field(default_factory=dict)  # id of a heading -> the text below it, code too
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        if "id" in values:
            self.ids.add(values["id"])
            if re.fullmatch("h[1-6]", tag):
                self.sections[values["id"]] = ""
        self.links += [values[name] for name in ("href", "src") if name in values]
        if tag == "blockquote":  # no document has one, but a line that begins with > becomes one
            self.text += "\n> "
        if tag not in ("img", "br", "hr", "input", "link", "meta", "path", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while tag in self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "article" not in self.open:
            return
        if self.sections:
            self.sections[[*self.sections][-1]] += data
        if not {"code", "pre", "math", "script", "style"} & set(self.open):
            self.text += data


def read_site(folder: Path) -> dict[Path, Contents]:
    pages = {}
    for path in sorted(folder.rglob("*.html")):
        pages[path] = Contents()
        pages[path].feed(path.read_text(encoding="utf-8"))
    return pages


def broken_links(folder: Path, repository: str, root: Path) -> list[str]:
    """Links and pictures that lead nowhere within the site, nor into the repository, which lies at ``root``."""
    pages = read_site(folder)
    faults = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links are absolute, and depend on where the site is published
            continue
        for link in page.links:
            where = f"{path.relative_to(folder)}: {link}"
            if link.startswith(repository):
                inside = re.fullmatch(r"(/(?:blob|tree)/main/([^#]+)(#.*)?)?/?", link.removeprefix(repository))
                if not inside or not (root / (inside[2] or "")).exists():
                    faults.append(where)
            if urlsplit(link).scheme or not link:
                continue
            name, _, anchor = unquote(link).partition("#")
            target = (path.parent / name.partition("?")[0]).resolve() if name else path
            target = target / "index.html" if target.is_dir() else target
            found = target.is_file() and target.is_relative_to(folder.resolve())
            if not found or (anchor and target in pages and anchor not in pages[target].ids):
                faults.append(where)
    return faults


def left_over(page: Contents) -> list[str]:
    """Markdown, and roles of Sphinx, that were not rendered."""
    return re.findall(r"\n(?:[-*>] |\d+\. |\|).*|^#+ .*|\]\(.*|\$\$.*|```.*|``.*|:\w+:`.*|\*\*\S.*", page.text, re.M)
