# Copyright (c) The serkd_mm authors. All rights reserved.
"""Measurements of speed and memory, run by ``tools/benchmark.py``.

One module per sub-command; each has ``run(options) -> Report``. Nothing here
is imported by the rest of the package.
"""
