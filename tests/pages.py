# Copyright (c) The serkd_mm authors. All rights reserved.
"""The Python blocks of Markdown pages, to run them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def python_blocks(page: Path) -> list[str]:
    """All Python blocks of a page, in order."""
    return re.findall(r'```python\n(.*?)```', page.read_text(), flags=re.S)


def python_block(containing: str, page: Path = ROOT / 'README.md') -> str:
    """The one Python block of a page that holds a text."""
    (block,) = [b for b in python_blocks(page) if containing in b]
    return block


def links(page: Path) -> list[Path]:
    """Files that a page links to, from where the page is."""
    targets = re.findall(r'\]\((?!https?:)([^)#]+)\)', page.read_text())
    return [page.parent / target for target in targets]


def run_page(page: Path, folder: Path) -> dict:
    """Run a page's Python blocks in order, as a reader would.

    A block whose first line is a comment with a file name is written there,
    below ``folder``; all others run in one namespace.

    Returns:
        The namespace.
    """
    namespace: dict = {'__name__': '__main__'}
    for block in python_blocks(page):
        name = re.match(r'# (\w+\.py)\n', block)
        if name:
            (folder / name[1]).write_text(block)
        else:
            exec(compile(block, str(page), 'exec'), namespace)
    return namespace
