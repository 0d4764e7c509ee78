"""What mkdocs does beside rendering docs/*.md, so that those read well on the repository's page and on the site.

Pages are made of other files of the repository and of the command line's parser; links out of docs/ lead to the
repository (``repo_url`` of mkdocs.yml); GitHub's Markdown becomes that of Python-Markdown, formulas become MathML.
"""

from __future__ import annotations

import argparse
import functools
import html
import logging
import posixpath
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).resolve().parents[1]
PAGES = {  # page of the site -> file of the repository
    "index.md": "README.md",
    "examples.md": "examples/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
COMMANDS = "reference/command-line.md"
CODE = r"`+[^`\n]+`+"
LINK = re.compile(rf"{CODE}|\[((?:[^][`]|{CODE})*)\]\(([^)\s]+)\)")  # what is `code` and no link has no groups

log = logging.getLogger("mkdocs.plugins.hooks")  # a warning ends a strict build


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, COMMANDS, content=command_line()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here = page.file.src_uri
    if here == COMMANDS:
        return markdown
    source = PAGES.get(here, f"docs/{here}")
    to_link = functools.partial(link, source=source, page=page, config=config, files=files)
    to_address = functools.partial(address, source=source, page=page, config=config, files=files)

    def prose(text: str) -> str:
        text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
        text = re.sub(r"\$\$(.+?)\$\$", lambda found: formula(found[1]), text, flags=re.S)
        text = outside_code(text, lambda part: part.replace("][", "]\\["))  # no link by reference: none has one
        text = LINK.sub(lambda found: to_link(found[1], found[2]) if found[2] else found[0], text)
        text = re.sub(r'(?<= src=")[^"]+(?=")', lambda it: to_address(it[0]), text)
        return blocks_apart(text)

    return "".join(part if is_code else prose(part) for is_code, part in fences(markdown))


# Markdown -----------------------------------------------------------------------------------------------------------


def slug(heading: str, separator: str = "-") -> str:
    """What GitHub makes of a heading for links to it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def fences(markdown: str) -> Iterator[tuple[bool, str]]:
    """The text in pieces, and whether each is a fenced block; a blank line stands before and after one."""
    for number, part in enumerate(re.split(r"^(```.*?^```[^\S\n]*\n?)", markdown, flags=re.M | re.S)):
        yield number % 2 == 1, f"\n{part}\n" if number % 2 else part


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """``change`` of everything that is not `code` within a line."""
    parts = re.split(f"({CODE})", text)
    return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))


def blocks_apart(text: str) -> str:
    """A list or a table that follows a paragraph without a blank line, as GitHub allows, gets one."""
    lines = [""]
    within = ""  # the list or table that the last line belongs to
    for line in text.split("\n"):
        after_blank = not lines[-1].strip()
        kind = "|" if line.startswith("|") else "-" if re.match(r"[-*] |\d+\. ", line) else ""
        if kind and kind != within and not after_blank:
            lines.append("")
        lines.append(line)
        # A list goes on over the lines below its items, until a blank line that no indented one follows.
        ends = line.startswith("#") or (after_blank and line.strip() and not line.startswith(" "))
        within = kind or ("" if ends or within == "|" else within)
    return "\n".join(lines[1:])


def formula(latex: str) -> str:
    return f'<div class="formula">{convert(" ".join(latex.split()), display="block")}</div>'


# Links --------------------------------------------------------------------------------------------------------------


def find(target: str, source: str, files: Files) -> tuple[File | None, str]:
    """The site's file that a link of the file ``source`` leads to, if there is one, and its path in the repository."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    pages = {file: page for page, file in PAGES.items()}
    inside = pages.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
    return (files.get_file_from_path(inside) if inside else None), path


def link(text: str, target: str, source: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """As mkdocs wants it: relative to the page's file, or an address of the repository.

    A text that is a file's name, which helps in the repository, becomes the page's title.
    """
    if re.match(r"[a-z]+:|#", target):
        return f"[{text}]({target})"
    name, _, anchor = target.partition("#")
    end = f"#{anchor}" if anchor else ""
    file, path = find(name, source, files)
    if file is None:
        return f"[{text}]({in_repository(path, source, config)}{end})"
    if text == posixpath.basename(path) or text == path:
        found = re.search(r"^# (.+)$", file.content_string, re.M) if file.is_documentation_page() else None
        text = found[1] if found else text
    return f"[{text}]({posixpath.relpath(file.src_uri, posixpath.dirname(page.file.src_uri) or '.')}{end})"


def address(target: str, source: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """For raw HTML, which mkdocs leaves as it is: relative to the page's address."""
    if re.match(r"[a-z]+:", target):
        return target
    file, path = find(target, source, files)
    return get_relative_url(file.url, page.file.url) if file else in_repository(path, source, config)


def in_repository(path: str, source: str, config: MkDocsConfig) -> str:
    if not (ROOT / path).exists():
        log.warning("%s: a link to %s, which is not there", source, path)
    kind = "tree" if (ROOT / path).is_dir() else "blob"
    return f"{(config.repo_url or '').rstrip('/')}/{kind}/main/{path}"


# The command line ---------------------------------------------------------------------------------------------------


def command_line() -> str:
    """The help of every command, of the parser itself."""
    sys.path.insert(0, str(ROOT))  # this source tree, and no other that is installed
    try:
        from pconv_cuda.cli import build_parser
    finally:
        sys.path.remove(str(ROOT))
    parts = ["# Command line", "What `pconv VERB --help` says. `pconv --version` prints the version."]
    for parser, level in parsers(build_parser()):
        parts += [f"{'#' * level} {parser.prog}", code(parser.description or "")]
        usage = re.sub(r"^(usage: | {7})", "", parser.format_usage().rstrip(), flags=re.M)
        parts += [f"```text\n{usage}\n```", options(parser), code(parser.epilog or "")]
    return "\n\n".join(parts)


def parsers(parser: argparse.ArgumentParser, level: int = 2) -> Iterator[tuple[argparse.ArgumentParser, int]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {choice.dest: choice.help for choice in action._choices_actions}
            for name, sub in action.choices.items():
                sub.formatter_class = functools.partial(argparse.HelpFormatter, width=80)  # type: ignore[assignment]
                sub.color = False  # type: ignore[attr-defined]
                sub.description = sub.description or texts.get(name)
                yield sub, level
                yield from parsers(sub, level + 1)


def options(parser: argparse.ArgumentParser) -> str:
    formatter: Any = argparse.HelpFormatter(parser.prog, width=80)
    rows = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or action.dest == "help" or isinstance(action, argparse._SubParsersAction):
            continue
        values = "" if action.nargs == 0 else formatter._format_args(action, action.dest.upper())
        shown = f"{', '.join(action.option_strings)} {values}" if action.option_strings else values
        rows.append(f"<dt><code>{html.escape(shown.strip())}</code></dt>")
        rows.append(f"<dd>{code(formatter._expand_help(action)) if action.help else ''}</dd>")
    return "<dl>\n" + "\n".join(rows) + "\n</dl>" if rows else ""


def code(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
