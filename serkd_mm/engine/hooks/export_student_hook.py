# Copyright (c) The serkd_mm authors. All rights reserved.
"""The best student so far, ready for use."""

from __future__ import annotations

import os.path as osp
import re
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..export import export_student
from ..graphs import check_onnx_packages


@HOOKS.register_module()
class ExportStudentHook(Hook):
    """Export the best student whenever there is a better one.

    Rides on ``save_best`` of the run's checkpoint hook: what that hook saves
    is exported as :func:`~serkd_mm.engine.export.export_student` does. The
    files of the one before are removed after those of the new one are
    complete. Exporting draws no random numbers of the run. If it fails, the
    error is logged, the files of the one before stay, and training goes on.

    Args:
        out: Path to write to, ``.pth``, in the work directory unless it is
            absolute. Its name before the hash is for this run alone.
        metric: Which best checkpoint, where ``save_best`` lists several.
        onnx: Whether to write an ONNX file beside the checkpoint.
        torchscript: Whether to write a TorchScript program beside it.
        size: Height and width of the images of these two; see
            :func:`~serkd_mm.engine.export.export_student`.

    Raises:
        ImportError: If packages for ONNX are missing.
        ValueError: Before training, if the checkpoint hook saves no best
            checkpoint, or several and ``metric`` is none of them, ``out``
            does not end in ``.pth``, or averaged weights are not those that
            are validated.

    Example:
        >>> custom_hooks = [dict(type='ExportStudentHook', onnx=True)]
        >>> default_hooks = dict(checkpoint=dict(save_best='auto'))
    """

    # After the checkpoint hook.
    priority = 'LOWEST'

    def __init__(
        self,
        out: str = 'best_student.pth',
        metric: str | None = None,
        onnx: bool = False,
        torchscript: bool = False,
        size: int | None = None,
    ) -> None:
        if not out.endswith('.pth'):
            raise ValueError(
                f'ExportStudentHook(out={out!r}): the student is written to a '
                '.pth file'
            )
        if onnx:
            check_onnx_packages()
        self.out = out
        self.metric = metric
        self.options: dict[str, Any] = dict(
            onnx=onnx, torchscript=torchscript, size=size
        )
        self._exported: tuple | None = None

    def before_train(self, runner: Runner) -> None:
        """Check the settings; catch up where the run was resumed."""
        for hook in runner.hooks:
            averages = isinstance(hook, EMAHook)
            if averages and not getattr(hook, 'evaluate_on_ema', True):
                raise ValueError(
                    'EMAHook(evaluate_on_ema=False) lets the trained weights '
                    'be validated, and ExportStudentHook exports the averaged '
                    'ones, which checkpoints hold; leave '
                    'evaluate_on_ema=False or one of both hooks out'
                )
        self._export_new_best(runner)

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Export the student if the validation found a better one."""
        self._export_new_best(runner)

    def _export_new_best(self, runner: Runner) -> None:
        best = self._best(runner)
        if not best[0] or best == self._exported or not is_main_process():
            return
        self._exported = best
        out = osp.join(runner.work_dir, self.out)
        try:
            student = export_student(
                best[0], out, config=runner.cfg, **self.options
            )
        except Exception as error:
            runner.logger.error(
                f'The best student was not exported, the files of the one '
                f'before stay: {type(error).__name__}: {error}'
            )
            return
        for note in student.notes:
            runner.logger.warning(note)
        runner.logger.info(
            f'The best student is exported to {student.checkpoint}'
        )
        try:
            _remove_others(student.checkpoint, Path(out).stem)
        except OSError as error:
            runner.logger.warning(f'Files of an old one stay: {error}')

    def _best(self, runner: Runner) -> tuple:
        """Path of the best checkpoint, or None so far, and its score."""
        hook = next(
            (h for h in runner.hooks if isinstance(h, CheckpointHook)), None
        )
        metrics = getattr(hook, 'key_indicators', None)
        if not metrics:
            raise ValueError(
                'ExportStudentHook exports the best checkpoint, but none is '
                "saved; set default_hooks.checkpoint.save_best='auto' or the "
                'name of a metric'
            )
        single = len(metrics) == 1
        if not single and self.metric not in metrics:
            raise ValueError(
                f'ExportStudentHook(metric={self.metric!r}): set metric to '
                f'one of {", ".join(metrics)}, for which '
                'default_hooks.checkpoint.save_best saves checkpoints'
            )
        suffix = '' if single else f'_{self.metric}'
        info = runner.message_hub.runtime_info
        return info.get(f'best_ckpt{suffix}'), info.get(f'best_score{suffix}')


def _remove_others(newest: Path, stem: str) -> None:
    """Remove the exports of earlier students of the run."""
    pattern = rf'{re.escape(stem)}-[0-9a-f]{{8}}\.(pth|py|onnx|pt)'
    for path in newest.parent.iterdir():
        if path.stem != newest.stem and re.fullmatch(pattern, path.name):
            path.unlink()
