# Copyright (c) The serkd_mm authors. All rights reserved.
"""A run as one self-contained HTML page."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

from mmengine.fileio import put_text

from ..engine.hooks.run_record_hook import RUN_RECORD
from ..number_text import number_text
from .logs import RunLog, starts
from .plot_logs import plot_runs

CONFIG = 'vis_data/config.py'

STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 72em; margin: 2em auto;
       padding: 0 1em; color: #222; }
table { border-collapse: collapse; }
td, th { border-bottom: 1px solid #ccc; padding: .25em .8em; text-align: left;
         vertical-align: top; }
pre { background: #f5f5f5; padding: 1em; overflow: auto; font-size: 12px; }
img { max-width: 100%; }
"""


def write_report(run: RunLog, path: Path) -> None:
    """Write result, curves, superpixels, config, environment and command.

    Args:
        run: Log of the run.
        path: HTML file; written whole or not at all. Pictures are inside.
    """
    record = run.record
    pictures = [_image(p.read_bytes(), p.stem) for p in superpixel_images(run)]
    parts = [
        _section('Result', _table(run.summary())),
        _section('Curves', _curves(run)),
        _section('Superpixels', ''.join(pictures)),
        _section('Command', _code(record.get('command'))),
        _section('Weights of the losses', _table(record.get('loss_weights'))),
        _section('Parameters', _table(record.get('parameters'))),
        _section('Environment', _table(record.get('environment'))),
        _section('Config', _code(_config(run))),
    ]
    title = escape(run.folder.resolve().name)
    html = (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<title>{title}</title><style>{STYLE}</style>'
        f'<h1>{title}</h1>{"".join(parts)}</html>\n'
    )
    put_text(html, str(path))


def superpixel_images(run: RunLog) -> list[Path]:
    """Pictures of superpixels of the run itself, in the order drawn."""
    found = [
        path
        for place in ('', '*/vis_data/**/')
        for path in run.folder.glob(f'{place}*superpixels*.png')
    ]
    return sorted(found, key=lambda path: (path.stat().st_mtime, path.name))


def _curves(run: RunLog) -> str:
    picture = io.BytesIO()
    plot_runs([run], picture)
    return _image(picture.getvalue(), 'curves')


def _config(run: RunLog) -> str | None:
    found = starts(run.folder, CONFIG)
    # Of trainings, not of tests of what they left.
    trained = [s for s in starts(run.folder, RUN_RECORD) if s in found]
    found = trained or found
    return (found[-1] / CONFIG).read_text('utf-8') if found else None


def _section(title: str, body: str) -> str:
    """A part of the page, left out where the run has nothing for it."""
    return f'<h2>{title}</h2>{body}' if body else ''


def _table(items: dict | None) -> str:
    rows = [
        f'<tr><th>{escape(str(key))}</th><td>{escape(_text(value))}</td></tr>'
        for key, value in (items or {}).items()
        if value is not None
    ]
    return f'<table>{"".join(rows)}</table>' if rows else ''


def _text(value: object) -> str:
    if isinstance(value, (int, float)):
        return number_text(value, 5)
    return str(value)


def _code(text: str | None) -> str:
    return f'<pre>{escape(text)}</pre>' if text else ''


def _image(png: bytes, title: str) -> str:
    data, name = base64.b64encode(png).decode(), escape(title)
    return (
        f'<figure><img alt="{name}" src="data:image/png;base64,{data}">'
        f'<figcaption>{name}</figcaption></figure>'
    )
