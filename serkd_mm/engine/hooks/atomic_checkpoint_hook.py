# Copyright (c) The serkd_mm authors. All rights reserved.
"""Checkpoints that survive whatever ends the run."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import put_text
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from ..agreement import main_process_writes
from ..atomic_backend import remove_partial_files
from ..checkpoints import choose_checkpoint

UNWRITABLE = ('stop', 'continue')


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's checkpoint hook for runs that may be killed at any moment.

    The settings are those of :class:`mmengine.hooks.CheckpointHook`. The
    checkpoints themselves are complete or absent by
    :class:`~serkd_mm.engine.atomic_backend.AtomicLocalBackend`. Beyond that:

    - Old checkpoints (``max_keep_ckpts``, the previous best one) are removed
      after the new one and ``last_checkpoint`` are on the disk, not before.
    - ``last_checkpoint`` is written like a checkpoint, after it.
    - If saving raises, files, ``last_checkpoint`` and the bookkeeping (best
      score, checkpoints to keep) are as before, on every process of the job.
      The error goes on; with ``if_unwritable='continue'`` one of the system,
      as of a full disk, is logged and training goes on.
    - Resuming without a named checkpoint takes the one of
      ``last_checkpoint``, or, where that cannot be read, the newest of this
      run that can, and says which ones were refused and why.
    - A validation that was due when the checkpoint was written, and may not
      have ended, is made up for on resume: no best checkpoint is lost.
    - What killed writers left is removed when training starts.

    Args:
        if_unwritable: ``'stop'`` or ``'continue'``. A run that goes on and
            could not write its last checkpoint either ends with the error.
        kwargs: See :class:`mmengine.hooks.CheckpointHook`.

    Raises:
        ValueError: For another ``if_unwritable``, and for
            ``file_client_args``, which goes past MMEngine's file backends.
        OSError: When training, if a checkpoint cannot be written.
        RuntimeError: When resuming, if the named checkpoint cannot be read,
            or if there are checkpoints and none of them can.
    """

    def __init__(self, if_unwritable: str = 'stop', **kwargs: Any) -> None:
        if if_unwritable not in UNWRITABLE:
            raise ValueError(
                f'if_unwritable must be one of {list(UNWRITABLE)}, got '
                f'{if_unwritable!r}'
            )
        if kwargs.get('file_client_args') is not None:
            raise ValueError(
                'AtomicCheckpointHook takes backend_args=dict(...), not '
                f'file_client_args={kwargs["file_client_args"]}: those write '
                'files that can be half complete'
            )
        super().__init__(**kwargs)
        self.if_unwritable = if_unwritable
        self._validated = self._validate_first = False
        self._unwritten: OSError | None = None

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to resume from."""
        if not runner._resume:
            return
        answer: list = [None, None]
        if is_main_process():
            try:
                answer[0] = self._choose(runner)
            except Exception as error:
                # The others wait for the answer, so this one is for all.
                answer[1] = str(error)
        broadcast_object_list(answer)
        path, why_not = answer
        if why_not is not None:
            raise RuntimeError(why_not)
        runner._load_from = path

    def _choose(self, runner: Runner) -> str | None:
        folder = runner.work_dir
        if self.out_dir is not None and self.out_dir != folder:
            name = osp.basename(folder.rstrip(osp.sep))
            folder = osp.join(self.out_dir, name)
        path, refused = choose_checkpoint(
            runner._load_from, runner.work_dir, folder, self.filename_tmpl
        )
        for other, reason in refused.items():
            runner.logger.warning(f'Not resuming from {other}: {reason}')
        if refused:
            runner.logger.warning(f'Resuming from {path} instead')
        if path is None:
            # An empty one of a killed writer would be taken for a name.
            Path(runner.work_dir, 'last_checkpoint').unlink(missing_ok=True)
        return path

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note whether the validation that was due has ended."""
        checkpoint['meta']['validated'] = self._validated

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Read whether it had."""
        meta = checkpoint.get('meta', {})
        self._validate_first = runner._resume and not meta.get(
            'validated', True
        )

    def before_train(self, runner: Runner) -> None:
        """Clean up after killed writers; make up for a validation."""
        super().before_train(runner)
        self.file_backend: Any = _LateRemovals(self.file_backend)
        if is_main_process():
            for folder in {str(self.out_dir), runner.work_dir}:
                for path in remove_partial_files(folder):
                    runner.logger.info(f'Removed the unfinished {path}')
        if self._validate_first and _validation_is_due(runner):
            runner.logger.info(
                'Validating first, as was due when the checkpoint was written'
            )
            runner.val_loop.run()
        self._validate_first = False

    def after_train(self, runner: Runner) -> None:
        """Publish; a last checkpoint that is missing is an error."""
        if self._unwritten is not None:
            raise self._unwritten
        super().after_train(runner)

    def _save_checkpoint(self, runner: Runner) -> None:
        self._unwritten = None
        with self._reported(runner), self._all_or_nothing(runner):
            super()._save_checkpoint(runner)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._reported(runner), self._all_or_nothing(runner):
            self._validated = True
            try:
                super()._save_best_checkpoint(runner, metrics)
            finally:
                self._validated = False

    @contextmanager
    def _reported(self, runner: Runner) -> Iterator[None]:
        """Say what could not be written and what there is."""
        try:
            yield
        except OSError as error:
            self._unwritten = error
            if is_main_process():
                runner.logger.error(
                    f'Could not write this checkpoint: {error}. The last good '
                    f'one of this run: {self.last_ckpt}'
                )
            if self.if_unwritable == 'stop':
                raise

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict
    ) -> None:
        self._keep(runner, step)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            last = osp.join(runner.work_dir, 'last_checkpoint')
            put_text(self.last_ckpt, last)

    def _keep(self, runner: Runner, step: int) -> None:
        """Note a step among the ones to keep, and the one that it ousts."""
        if self.max_keep_ckpts <= 0 or step in self.keep_ckpt_ids:
            return
        if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
            oldest = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            path = self.file_backend.join_path(self.out_dir, oldest)
            if self.file_backend.isdir(path):
                self.file_backend.rmtree(path)
            elif self.file_backend.isfile(path):
                self.file_backend.remove(path)
        self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info(
            'keep_ckpt_ids', list(self.keep_ckpt_ids)
        )

    @contextmanager
    def _all_or_nothing(self, runner: Runner) -> Iterator[None]:
        """Remove old files at the end, and undo the notes on an error."""
        names = ('last_ckpt', 'best_ckpt_path', 'best_ckpt_path_dict')
        noted = {name: _copy(getattr(self, name, None)) for name in names}
        kept = list(getattr(self, 'keep_ckpt_ids', ()))
        hub = runner.message_hub
        infos = dict(hub.runtime_info)
        try:
            with main_process_writes():
                yield
        except BaseException:
            for name in names:
                if hasattr(self, name):
                    setattr(self, name, noted[name])
            if hasattr(self, 'keep_ckpt_ids'):
                self.keep_ckpt_ids.clear()
                self.keep_ckpt_ids.extend(kept)
            for name in set(hub.runtime_info) - set(infos):
                hub.pop_info(name)
            for name, value in infos.items():
                hub.update_info(name, value)
            self.file_backend.forget()
            raise
        best = getattr(self, 'best_ckpt_path_dict', {}).values()
        in_use = {self.last_ckpt, getattr(self, 'best_ckpt_path', None), *best}
        if is_main_process():
            self.file_backend.remove_all_but(in_use)


class _LateRemovals:
    """A file backend whose removals wait."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._waiting: dict = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._waiting[path] = self._backend.remove

    def rmtree(self, path: str) -> None:
        self._waiting[path] = self._backend.rmtree

    def forget(self) -> None:
        self._waiting.clear()

    def remove_all_but(self, in_use: set) -> None:
        waiting, self._waiting = self._waiting, {}
        for path, remove in waiting.items():
            if path not in in_use:
                remove(path)


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


def _validation_is_due(runner: Runner) -> bool:
    """Whether the loop would have validated before it goes on."""
    loop = runner.train_loop
    if runner.val_loop is None:
        return False
    if isinstance(loop, IterBasedTrainLoop):
        done, last = loop.iter, loop.max_iters
    elif isinstance(loop, EpochBasedTrainLoop):
        if loop.iter != loop.epoch * len(loop.dataloader):
            return False
        done, last = loop.epoch, loop.max_epochs
    else:
        return False
    loop._decide_current_val_interval()
    at_interval = done % loop.val_interval == 0 or done == last
    return done >= max(loop.val_begin, 1) and at_interval
