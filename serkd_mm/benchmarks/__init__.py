# Copyright (c) The serkd_mm authors. All rights reserved.
"""Measurements of speed and memory, run by ``tools/benchmark.py``.

One module per sub-command; each has ``run(options) -> Report``. Checks of a
pair and studies measure and report with ``measure`` and ``report`` too.
"""
