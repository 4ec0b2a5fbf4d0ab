# Copyright (c) The serkd_mm authors. All rights reserved.
"""Agreement numbers, sheets, and the tool and hook that draw them."""

from __future__ import annotations

import json
import logging
import math
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from serkd_mm.engine.hooks import SuperpixelVisHook, superpixel_vis_hook
from serkd_mm.visualization import sheet
from serkd_mm.visualization import tool as visualization_tool
from serkd_mm.visualization.agreement import (
    boundary_recall,
    normalized_mutual_information,
)
from serkd_mm.visualization.sheet import (
    agreement_of,
    clustering,
    draw_sheet,
    drawable,
    superpixel_rows,
    superpixels_of_images,
    takes_rgb,
)
from tests.models import builders

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools' / 'visualize_superpixels.py'


@pytest.mark.parametrize('regions', [(1, 1), (1, 4), (3, 4), (20, 2)])
def test_mutual_information_is_that_of_scikit_learn(
    regions: tuple[int, int],
) -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.integers(0, r, (12, 9)) for r in regions)
    expected = normalized_mutual_info_score(a.ravel(), b.ravel())
    assert normalized_mutual_information(a, b) == pytest.approx(expected)
    assert normalized_mutual_information(a, 7 - a) == pytest.approx(1)


def test_boundary_recall_counts_what_is_near() -> None:
    reference = np.zeros((10, 20), int)
    reference[:, 10:] = 1
    near, far = reference.copy(), reference.copy()
    near[:, 8:10] = 1  # Two pixels to the left.
    right = reference.copy()
    right[:, 10:12] = 0
    far[:, 7:10] = 1
    far[:5] = reference[:5]
    assert boundary_recall(near, reference, tolerance=2) == 1
    assert boundary_recall(right, reference, tolerance=2) == 1
    assert boundary_recall(near, reference, tolerance=1) == 0
    # In the lower half nothing is near, but for two rows that the upper
    # half and the step between both reach.
    assert 0.5 <= boundary_recall(far, reference, tolerance=2) < 1
    assert math.isnan(boundary_recall(near, np.zeros_like(near)))


@pytest.mark.parametrize(('side', 'near'), [(300, False), (900, True)])
def test_what_is_near_grows_with_the_image(side: int, near: bool) -> None:
    reference, labels = np.zeros((2, side, side), int)
    reference[:, 100:] = 1
    labels[:, 97:] = 1
    assert boundary_recall(labels, reference) == near


@pytest.mark.parametrize(
    'function', [normalized_mutual_information, boundary_recall]
)
def test_other_shapes_are_refused(function) -> None:
    with pytest.raises(ValueError, match=r'\(2, 3\).*\(3, 2\)'):
        function(np.zeros((2, 3), int), np.zeros((3, 2), int))


@pytest.fixture
def images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [
        generator.integers(0, 256, (h, w, 3)).astype(np.uint8)
        for h, w in ((32, 32), (50, 90))
    ]


def test_superpixels_have_the_size_of_their_images(images) -> None:
    model = builders.build().train()
    modes: list[bool] = []
    model.student.backbone.register_forward_pre_hook(
        lambda module, args: modes.append(module.training)
    )
    labels = superpixels_of_images(model, images, (32, 32))
    assert modes == [False]
    for side in ('teacher', 'student'):
        shapes = [found.shape for found in labels[side]]
        assert shapes == [image.shape[:2] for image in images]
    assert model.training
    assert not model.teacher.training
    same = dict(labels, student=labels['teacher'])
    for line in agreement_of(same):
        assert line['nmi'] == pytest.approx(1)
        assert line['boundary recall'] == 1
    sides = labels['teacher'], labels['student']
    for line, own, other in zip(agreement_of(labels), *sides):
        assert line['nmi'] < 1
        assert line['boundary recall'] == boundary_recall(other, own)
        assert line['boundary recall'] != boundary_recall(own, other)
    assert agreement_of(dict(teacher=labels['teacher'])) == []


@pytest.mark.parametrize(
    ('to_rgb', 'pipeline', 'rgb'),
    [
        (True, ['LoadImageFromFile', 'PackInputs'], False),
        (True, ['PackInputs'], False),
        (False, ['LoadCheckedImage', 'PackInputs'], False),  # BGR networks
        (False, ['mmcv.LoadImageFromFile', 'PackInputs'], False),
        (False, ['PackInputs'], True),  # CIFAR
    ],
)
def test_networks_see_the_colours_that_they_know(
    images, to_rgb: bool, pipeline: list[str], rgb: bool
) -> None:
    preprocessor = dict(type='mmpretrain.ClsDataPreprocessor', to_rgb=to_rgb)
    model = builders.build(data_preprocessor=preprocessor)
    assert takes_rgb(model, pipeline) == rgb
    seen: list[torch.Tensor] = []
    model.student.backbone.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    blue = np.zeros((32, 32, 3), np.uint8)
    blue[..., 0] = 255
    superpixels_of_images(model, [blue], (32, 32), rgb)
    channels = seen[0][0].mean(dim=(1, 2))
    assert int(channels.argmax()) == (2 if to_rgb or rgb else 0)


def test_networks_see_every_pixel_of_large_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        sheet,
        'superpixel_assignments',
        lambda model, batch: seen.append(batch) or {},
    )
    stripes = np.zeros((96, 128, 3), np.uint8)
    stripes[:, ::4] = 200
    grey = np.full_like(stripes, 50)

    superpixels_of_images(builders.build(), [stripes, grey], (24, 32))

    assert seen[0].shape == (2, 3, 24, 32)
    assert torch.equal(*seen[0])


@pytest.mark.parametrize(
    ('shape', 'drawn'),
    [
        ((32, 24), (192, 144)),
        ((200, 10), (200, 10)),
        ((3000, 2000), (512, 341)),
    ],
)
def test_images_get_a_size_to_draw_on(shape: tuple, drawn: tuple) -> None:
    found = drawable(np.zeros((*shape, 3), np.uint8))
    assert found.shape == (*drawn, 3)


def test_clustering_lasts_as_long_as_asked(images) -> None:
    model = builders.build()

    def regions() -> int:
        labels = superpixels_of_images(model, images[:1], (32, 32))
        return len(np.unique(labels['teacher'][0]))

    before = regions()
    with clustering(model, grid_size=4):
        assert regions() < before
    assert regions() == before


def test_a_sheet_shows_every_picture(images) -> None:
    blue = np.zeros((40, 40, 3), np.uint8)
    blue[..., 0] = 255
    # No mathematics, as it would be in matplotlib.
    titles = ['US$1_$2'], r'$\no$'
    drawn = draw_sheet({'one': [blue, blue], 'two': [blue]}, *titles)
    share = (drawn == (0, 0, 255)).all(axis=2).sum() / drawn[..., 0].size
    assert drawn.dtype == np.uint8
    assert 0.3 < share < 0.75
    labels = {'teacher': [np.zeros((40, 40), int)]}
    rows = superpixel_rows([blue], labels)
    assert list(rows) == ['teacher: outlines', 'teacher: mean colour']


class Visualizer:
    def __init__(self) -> None:
        self.images: list[tuple[str, int, np.ndarray]] = []
        self.scalars: list[tuple[dict, int]] = []

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        self.images.append((name, step, image))

    def add_scalars(self, scalars: dict, step: int) -> None:
        self.scalars.append((scalars, step))


@pytest.mark.parametrize(
    ('iters', 'start', 'rgb'),
    [
        (0, 'before training', True),
        (70, 'resumed after 70 iterations', False),
    ],
)
def test_the_hook_draws_before_while_and_after_training(
    iters: int, start: str, rgb: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[list[str]] = []
    images: list[np.ndarray] = []

    def draw(sheet_rows: dict, *args: object) -> np.ndarray:
        rows.append(list(sheet_rows))
        images[:] = sheet_rows['image']
        return draw_sheet(sheet_rows, *args)

    def agreement(labels: dict) -> list[dict]:
        # An image of one region has no boundary to recall.
        first, *others = agreement_of(labels)
        return [{**first, 'boundary recall': math.nan}, *others]

    monkeypatch.setattr(superpixel_vis_hook, 'draw_sheet', draw)
    monkeypatch.setattr(superpixel_vis_hook, 'agreement_of', agreement)
    pixels = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    dataset = [dict(inputs=image) for image in pixels]
    preprocessor = dict(type='mmpretrain.ClsDataPreprocessor', to_rgb=not rgb)
    model = builders.build(data_preprocessor=preprocessor).train()
    runner = SimpleNamespace(
        model=model,
        visualizer=Visualizer(),
        val_loop=object(),
        val_dataloader=SimpleNamespace(dataset=dataset),
        train_dataloader=SimpleNamespace(dataset=dataset),
        iter=iters,
        epoch=0,
        max_epochs=5,
    )
    for settings, said in (
        (dict(images=0), 'images must be >= 1 or paths, got 0'),
        (dict(images=[]), r'images must be >= 1 or paths, got \[\]'),
        (dict(interval=-1), 'interval must be >= 1 epochs, got -1; .*leave'),
    ):
        with pytest.raises(ValueError, match=said):
            SuperpixelVisHook(**settings)
    hook = SuperpixelVisHook(images=3, interval=2)
    state = torch.get_rng_state()
    hook.before_train(runner)
    for epoch in range(5):
        runner.epoch = epoch
        hook.after_train_epoch(runner)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    first = pixels[0].permute(1, 2, 0).numpy()
    bgr = first[..., ::-1] if rgb else first
    assert np.array_equal(images[0][::6, ::6], bgr)
    drawn = runner.visualizer.images
    assert [(name, step) for name, step, _ in drawn] == [
        ('superpixels', step) for step in (0, 2, 4, 5)
    ]
    # Two rows more once there is a start and a now.
    student = ['student: outlines', 'student: mean colour']
    assert rows[0][-2:] == student
    assert rows[1] == [
        *rows[0][:-2],
        *(f'{start}, {name}' for name in student),
        *student,
    ]
    for scalars, _ in runner.visualizer.scalars:
        assert set(scalars) == {
            'superpixels/nmi',
            'superpixels/boundary_recall',
        }
        assert not any(map(math.isnan, scalars.values()))


def test_without_a_validation_set_the_hook_says_so_and_draws_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runner = SimpleNamespace(
        model=torch.nn.Module(),
        val_loop=None,
        logger=logging.getLogger(),
        epoch=4,
        max_epochs=5,
    )
    hook = SuperpixelVisHook()
    hook.before_train(runner)
    hook.after_train_epoch(runner)
    assert 'nothing without a validation set; give it images=' in caplog.text


def test_a_teacher_that_all_processes_share_is_refused_by_all() -> None:
    model = builders.build()
    # As parameters are that are divided between processes.
    next(model.teacher.parameters()).full_tensor = lambda: None

    with pytest.raises(ValueError, match='teacher_shard.*leave one of them'):
        SuperpixelVisHook().before_train(SimpleNamespace(model=model))


@pytest.mark.parametrize('distils', [True, False])
def test_without_superpixels_the_hook_says_so_and_draws_nothing(
    distils: bool,
) -> None:
    """A config that inherits the hook and takes other losses trains."""
    feature = builders.distiller_config(losses=('loss_feature',))
    model = builders.build(distiller=feature)
    said: list[str] = []
    runner = SimpleNamespace(
        model=model if distils else model.student,
        val_loop=object(),
        logger=SimpleNamespace(warning=said.append),
        epoch=0,
        max_epochs=1,
    )
    hook = SuperpixelVisHook()
    hook.before_train(runner)
    hook.after_train_epoch(runner)
    (line,) = said
    assert 'no loss of this config takes superpixels' in line


CONFIG = f"""
_base_ = '{ROOT}/configs/quickstart/serkd.py'
model = dict(teacher_ckpt=None, allow_random_teacher=True)
"""
WRAPPED = """
pipeline = [
    dict(type='mmpretrain.LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=(16, 24), pad_if_needed=True),
    dict(type='PackInputs'),
]
part = dict(type='CustomDataset', data_root='no', pipeline=pipeline)
train_dataloader = dict(
    dataset=dict(_delete_=True, type='ConcatDataset', datasets=[part, part])
)
val_dataloader = dict(dataset=dict(pipeline=[dict(type='PackInputs')]))
"""


def run_tool(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *arguments])
    runpy.run_path(str(TOOL), run_name='__main__')


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    """Config and checkpoint of the quick start's pair, untrained."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmrazor.registry import MODELS

    config = tmp_path / 'pair.py'
    config.write_text(CONFIG)
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    checkpoint = tmp_path / 'pair.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    return str(config), str(checkpoint)


def test_the_tool_draws_every_setting(
    pair, images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f'{index}.png'), image)
    truth = np.zeros((2, 50, 90), np.uint8)
    truth[:, :, 40:] = 1
    np.savez(tmp_path / 'people.npz', **{'1': truth})
    out = tmp_path / 'out'
    people = ('--segmentations', str(tmp_path / 'people.npz'))
    run_tool(
        monkeypatch, *pair, str(tmp_path), '--out', str(out),
        '--grids', '2', '4', '--iters', '0', *people,
    )  # fmt: skip
    names = ['superpixels_grid-2_iters-0', 'superpixels_grid-4_iters-0']
    assert sorted(p.stem for p in out.glob('*.png')) == names
    rows = json.loads((out / 'agreement.json').read_text())
    assert [row['sheet'] for row in rows] == [n for n in names for _ in '01']
    assert 0 < rows[1]['student nmi with people'] < 1
    assert 'student nmi with people' not in rows[0]
    # One person, regions of more than 256 numbers, half as fine as the image.
    coarse = truth[0, ::2, ::2].astype(np.int64)
    np.savez(tmp_path / 'people.npz', **{'1': 300 * coarse})
    run_tool(
        monkeypatch, *pair, str(tmp_path), '--out', str(out),
        '--grids', '2', '4', '--iters', '0', *people,
    )  # fmt: skip
    again = json.loads((out / 'agreement.json').read_text())
    for one, other in zip(rows, again):
        assert one == pytest.approx(other, abs=0.02)


def test_what_is_not_defined_is_null(
    pair, images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the recall of the boundaries of one superpixel."""
    cv2.imwrite(str(tmp_path / 'image.png'), images[0])
    out = tmp_path / 'out'
    run_tool(
        monkeypatch, *pair, str(tmp_path), '--out', str(out), '--grids', '20'
    )

    text = (out / 'agreement.json').read_text()
    (row,) = json.loads(text, parse_constant=pytest.fail)
    assert row['boundary recall'] is None


def test_networks_see_images_in_the_size_that_they_were_trained_at(
    pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation that resizes nothing, as CIFAR's, says no size."""
    config, checkpoint = pair
    with Path(config).open('a') as file:
        file.write(WRAPPED)
    cv2.imwrite(str(tmp_path / 'small.png'), np.zeros((8, 8, 3), np.uint8))
    asked: list[tuple] = []

    def look(model, images, hw, rgb):
        asked.append((hw, rgb))
        return superpixels_of_images(model, images, (32, 32), rgb)

    monkeypatch.setattr(visualization_tool, 'superpixels_of_images', look)
    visualization_tool.visualize(config, checkpoint, [str(tmp_path)])
    assert asked == [((16, 24), False)]


@pytest.mark.parametrize(
    'fault',
    [
        'image',
        'text',
        'people',
        'others',
        'floats',
        'folder',
        'turned',
        'checkpoint',
        'swapped',
        'foreign',
        'cut',
    ],
)
def test_the_tool_says_in_one_line_what_is_wrong(
    pair, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, checkpoint = pair
    image = str(tmp_path / 'image.png')
    cv2.imwrite(image, np.zeros((8, 9, 3), np.uint8))
    people = str(tmp_path / 'people.npz')
    message = {
        'image': 'error: image .* does not exist',
        'text': 'error: image .*text.png cannot be drawn on: .* unknown form',
        'people': 'error: --segmentations .* is no npz of arrays; write one',
        'folder': 'error: --segmentations .* is no npz of arrays; write one',
        'others': r"error: --seg.* begin with \['a'\], those of .*\['image'\]",
        'floats': r'float64 of shape \(8, 9\) for image, expected integers',
        'turned': 'of image.png has 9x8 pixels, .* one of them is turned',
        'checkpoint': 'error: checkpoint .* is not a file; name one file',
        'swapped': 'error: .*image.png was refused: it is no checkpoint',
        'foreign': 'error: .*does not belong to .*pair.py.*Missing key',
        'cut': 'error: .*does not belong to .*pair.py: .*pos_embed',
    }[fault]
    arguments = ['--out', str(tmp_path / 'out')]
    if fault == 'image':
        image = str(tmp_path / 'missing.png')
    elif fault == 'text':
        image = str(tmp_path / 'text.png')
        Path(image).write_text('no image')
    elif fault == 'people':
        arguments += ['--segmentations', image]
    elif fault == 'folder':
        arguments += ['--segmentations', str(tmp_path)]
    elif fault in ('others', 'floats', 'turned'):
        regions = np.zeros((8, 9), float if fault == 'floats' else int)
        regions = regions.T if fault == 'turned' else regions
        np.savez(people, **{'a' if fault == 'others' else 'image': regions})
        arguments += ['--segmentations', people]
    elif fault == 'checkpoint':
        checkpoint = str(tmp_path / 'missing.pth')
    elif fault == 'swapped':
        checkpoint = image
    elif fault == 'foreign':
        torch.save(dict(state_dict={'a': torch.zeros(1)}), checkpoint)
    else:
        weights = torch.load(checkpoint)
        name = 'architecture.backbone.pos_embed'
        state = weights.get('state_dict', weights)
        state[name] = state[name][:, :-5]
        torch.save(weights, checkpoint)
    with pytest.raises(SystemExit, match=message) as caught:
        run_tool(monkeypatch, config, checkpoint, image, *arguments)
    assert '\n' not in str(caught.value)
