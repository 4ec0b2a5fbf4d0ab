# Copyright (c) The serkd_mm authors. All rights reserved.
"""The main job on scikit-learn's digits: teacher, student, student with SeRKD.

Trains the three configs of configs/quickstart, prints one table and draws the
learning curves and the superpixels of teacher and student. What is already
trained is not trained again.

python tools/quickstart.py --out work_dirs/quickstart
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt  # noqa: E402
import mmcv  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmpretrain.registry import DATASETS  # noqa: E402

import serkd_mm  # noqa: E402, F401
from serkd_mm.outputs import check_out_folder  # noqa: E402
from serkd_mm.visualization.sheet import (  # noqa: E402
    draw_sheet,
    drawable,
    superpixel_rows,
    superpixels_of_images,
)
from serkd_mm.visualization.tool import load_algorithm  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RUNS = {
    'teacher': 'teacher',
    'student': 'student alone',
    'serkd': 'student with SeRKD',
}
# Epochs in which the learning rate grows in configs/quickstart.
WARM_UP = 5
COLORS = {'teacher': '#7f7f7f', 'student': '#d95f02', 'serkd': '#1b6ca8'}
VALIDATION = re.compile(r'Epoch\(val\)\s+\[(\d+)\].*accuracy/top1: ([\d.]+)')


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Train teacher, student and student with SeRKD on the '
        'digits',
        epilog='example: python tools/quickstart.py --out /tmp/quickstart',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/quickstart'),
        help='folder for runs, table and pictures (default: %(default)s)',
    )
    parser.add_argument(
        '--epochs',
        type=int,
        default=40,
        help=f'of each training, above {WARM_UP} (default: %(default)s)',
    )
    args = parser.parse_args()
    if args.epochs <= WARM_UP:
        parser.error(f'--epochs must be above {WARM_UP}, those of warm-up')
    try:
        check_out_folder(args.out, '--out')
    except ValueError as error:
        parser.error(str(error))
    args.out = args.out.resolve()
    results = {name: train(name, args.out, args.epochs) for name in RUNS}
    table = format_table(results)
    (args.out / 'table.md').write_text(table)
    print(f'\n{table}\nTop-1 on 719 validation images; seed 0.')
    draw_curves(results, args.out / 'curves.png')
    draw_pairs(args.out, args.epochs, args.out / 'superpixels.png')
    print(f'Pictures: {args.out}/curves.png, {args.out}/superpixels.png')


def train(name: str, out: Path, epochs: int) -> dict:
    """Train one config, or return what an equal run has left."""
    config = ROOT / 'configs' / 'quickstart' / f'{name}.py'
    work_dir, result_file = out / name, out / name / 'result.json'
    options = [f'train_cfg.max_epochs={epochs}']
    if name == 'serkd':
        options.append(
            # Quoted: commas would make a list of a path.
            f'model.teacher_ckpt="{checkpoint(out, "teacher", epochs)}"'
        )
    configs = [config]
    if name == 'serkd':
        configs.append(config.with_name('teacher.py'))
    digest = fingerprint(configs, options)
    if result_file.is_file() and checkpoint(out, name, epochs).is_file():
        result = json.loads(result_file.read_text())
        if result['config'] == digest:
            print(f'{RUNS[name]}: already trained in {work_dir}, skipped')
            return result
    command = [sys.executable, '-W', 'ignore', str(ROOT / 'tools/train.py')]
    command += [str(config), '--work-dir', str(work_dir)]
    command += ['--cfg-options', *options]
    started = time.perf_counter()
    curve = run(command, RUNS[name], work_dir / 'train.log', epochs)
    result = {
        'config': digest,
        'curve': curve,
        'top1': curve[-1][1],
        'seconds': time.perf_counter() - started,
        'parameters': count_parameters(checkpoint(out, name, epochs)),
    }
    result_file.write_text(json.dumps(result, indent=1))
    return result


def checkpoint(out: Path, name: str, epochs: int) -> Path:
    return out / name / f'epoch_{epochs}.pth'


def fingerprint(configs: list[Path], options: list[str]) -> str:
    """Hash of everything that the configs say, their bases included."""
    texts = [Config.fromfile(config).pretty_text for config in configs]
    return hashlib.sha256('\n'.join(texts + options).encode()).hexdigest()


def run(
    command: list[str], title: str, log: Path, epochs: int
) -> list[tuple[int, float]]:
    """Run a training, show one line that counts epochs, keep the rest."""
    log.parent.mkdir(parents=True, exist_ok=True)
    curve = []
    with (
        log.open('w') as file,
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            match = VALIDATION.search(line)
            if match:
                curve.append((int(match[1]), float(match[2])))
                show_progress(title, *curve[-1], epochs)
    if process.returncode or not curve:
        print(log.read_text()[-2000:], file=sys.stderr)
        raise SystemExit(f'{title}: training failed, see {log}')
    return curve


def show_progress(title: str, epoch: int, top1: float, epochs: int) -> None:
    """One line on a terminal, a line every quarter elsewhere."""
    text = f'{title}: epoch {epoch}/{epochs}, top-1 {top1:.1f}'
    if sys.stdout.isatty():
        print(f'\r{text}', end='\n' if epoch == epochs else '', flush=True)
    elif epoch == epochs or epoch % max(epochs // 4, 1) == 0:
        print(text, flush=True)


def count_parameters(path: Path) -> int:
    """Parameters of the network that is left after training."""
    state = torch.load(path, map_location='cpu')['state_dict']
    network = ('backbone.', 'head.', 'architecture.')
    return sum(v.numel() for k, v in state.items() if k.startswith(network))


def format_table(results: dict[str, dict]) -> str:
    rows = [
        '| | parameters | top-1 | seconds |',
        '|---|---:|---:|---:|',
    ]
    for name, result in results.items():
        rows.append(
            f'| {RUNS[name]} | {result["parameters"]:,} | '
            f'{result["top1"]:.1f} | {result["seconds"]:.0f} |'
        )
    return '\n'.join(rows) + '\n'


def draw_curves(results: dict[str, dict], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout='constrained')
    for name, result in results.items():
        epochs, top1 = zip(*result['curve'])
        axes.plot(
            epochs,
            top1,
            color=COLORS[name],
            marker='o',
            markersize=3,
            linestyle='--' if name == 'teacher' else '-',
            label=f'{RUNS[name]}: {top1[-1]:.1f}',
        )
    axes.set_xlabel('epoch')
    axes.set_ylabel('top-1 on validation images (%)')
    axes.set_title('Digits: 5 labels per class for the students')
    axes.grid(alpha=0.3)
    axes.legend(loc='lower right')
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_pairs(out: Path, epochs: int, path: Path, columns: int = 8) -> None:
    """Superpixels of teacher and student on one image of eight classes."""
    cfg = Config.fromfile(ROOT / 'configs/quickstart/serkd.py')
    MMLogger.get_current_instance().setLevel('WARNING')
    cfg.model.teacher_ckpt = str(checkpoint(out, 'teacher', epochs))
    model = load_algorithm(cfg, str(checkpoint(out, 'serkd', epochs)))
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    labels = dataset.get_gt_labels()
    chosen = [int(np.flatnonzero(labels == c)[0]) for c in range(columns)]
    images = [drawable(dataset.get_data_info(i)['img']) for i in chosen]
    size = tuple(dataset[chosen[0]]['inputs'].shape[-2:])
    superpixels = superpixels_of_images(model, images, size)
    rows = {
        name: pictures
        for name, pictures in superpixel_rows(images, superpixels).items()
        if name.endswith('outlines')
    }
    sheet = draw_sheet({'image': images, **rows})
    mmcv.imwrite(sheet[..., ::-1], str(path))


if __name__ == '__main__':
    main()
