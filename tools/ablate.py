# Copyright (c) The serkd_mm authors. All rights reserved.
"""Studies: experiments over seeds, and the tables of the paper.

python tools/ablate.py list                       # all studies
python tools/ablate.py list table7                # its experiments
python tools/ablate.py run digits --jobs 2        # what is not finished
python tools/ablate.py run table7 --only kd-0.5_deit-ti --gpus 8
python tools/ablate.py table digits               # Markdown, CSV, plot
"""

from __future__ import annotations

from pathlib import Path

from serkd_mm.studies.cli import main

if __name__ == '__main__':
    main(Path(__file__).resolve().parents[1])
