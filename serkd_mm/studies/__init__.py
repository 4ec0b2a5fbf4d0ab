# Copyright (c) The serkd_mm authors. All rights reserved.
"""Studies: the same experiments over seeds, run, resumed and summarised."""

from .report import write_report
from .runs import Run, runs_of
from .study import Experiment, Study, find_studies, load_study
from .sweep import Sweep

__all__ = [
    'Experiment',
    'Run',
    'Study',
    'Sweep',
    'find_studies',
    'load_study',
    'runs_of',
    'write_report',
]
