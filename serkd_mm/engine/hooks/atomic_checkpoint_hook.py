# Copyright (c) The serkd_mm authors. All rights reserved.
"""Checkpoints that survive whatever ends the run."""

from __future__ import annotations

import inspect
import os
import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import put_text
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...near_names import nearest
from ..agreement import main_process_writes
from ..atomic_backend import remove_partial_files
from ..checkpoints import ResumeError, choose_checkpoint, is_in
from ..late_removals import LateRemovals
from ..runner_parts import length_reached, validation_is_due

UNWRITABLE = ('stop', 'continue')


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's checkpoint hook for runs that may be killed at any moment.

    The settings are those of :class:`mmengine.hooks.CheckpointHook`. The
    checkpoints themselves are complete or absent by
    :class:`~serkd_mm.engine.atomic_backend.AtomicLocalBackend`. Beyond that:

    - Old checkpoints (``max_keep_ckpts``, the previous best one) are removed
      after the new one and ``last_checkpoint`` are on the disk, not before.
      Those of another folder, as of the run that this one was resumed from,
      are not removed.
    - ``last_checkpoint`` is written like a checkpoint, after it.
    - If saving raises, files, ``last_checkpoint`` and the bookkeeping (best
      score, checkpoints to keep) are as before, on every process of the job.
      The error goes on; with ``if_unwritable='continue'`` one of the system,
      as of a full disk, is logged and training goes on.
    - Resuming without a named checkpoint takes the one of
      ``last_checkpoint``, or, where that cannot be read, the newest of this
      run that can, and says which ones were refused and why. That there is
      none, or that a resumed run has finished already, is said too.
    - A validation that was due when the checkpoint was written, and may not
      have ended, is made up for on resume: no best checkpoint is lost.
    - What killed writers left is removed when training starts.

    Args:
        if_unwritable: ``'stop'`` or ``'continue'``. A run that goes on and
            could not write its last checkpoint either ends with the error.
        kwargs: See :class:`mmengine.hooks.CheckpointHook`.

    Raises:
        TypeError: Before training, for an argument that neither MMEngine's
            hook nor the runner's ``save_checkpoint`` takes.
        ValueError: For another ``if_unwritable``, and for
            ``file_client_args``, which goes past MMEngine's file backends.
        OSError: When training, if a checkpoint cannot be written.
        ResumeError: When resuming, if the named checkpoint cannot be read,
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
        self.file_backend: Any = None
        self._unwritten: OSError | None = None

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to resume from; refuse unknown arguments."""
        # MMEngine passes them on, so that the first checkpoint would fail.
        taken = inspect.signature(runner.save_checkpoint).parameters
        for name in self.args:
            if name not in taken:
                raise TypeError(
                    f'{type(self).__name__} got an unexpected keyword '
                    f'argument {name!r}{nearest(name, type(self))}'
                )
        # A machine that joins a job which started again does not know that
        # there is one, so the main process decides for all.
        answer: list = [runner._resume, runner._load_from, None]
        if is_main_process() and runner._resume:
            try:
                path = self._choose(runner)
                answer[:2] = path is not None, path
            except Exception as error:
                # The others wait for the answer, so this one is for all.
                answer[2] = str(error)
        broadcast_object_list(answer)
        runner._resume, runner._load_from, why_not = answer
        if why_not is not None:
            raise ResumeError(why_not)
        path = runner._load_from
        if runner._resume and '://' not in path and not osp.exists(path):
            raise ResumeError(
                f'rank {runner.rank} cannot resume from {path}, which is not '
                'on this machine; put work_dir on a disk that all machines '
                'share'
            )

    def _folder(self, runner: Runner) -> str:
        """Where MMEngine will put the checkpoints."""
        if self.out_dir in (None, runner.work_dir):
            return runner.work_dir
        name = osp.basename(runner.work_dir.rstrip(osp.sep))
        return osp.join(str(self.out_dir), name)

    def _choose(self, runner: Runner) -> str | None:
        path, refused = choose_checkpoint(
            runner._load_from,
            runner.work_dir,
            self._folder(runner),
            self.filename_tmpl,
        )
        if path is None:
            runner.logger.info(
                'There is no checkpoint to resume from in '
                f'{runner.work_dir}: training starts from the beginning'
            )
        for other, reason in refused.items():
            runner.logger.warning(f'Not resuming from {other}: {reason}')
        if refused:
            runner.logger.warning(f'Resuming from {path} instead')
        return path

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note whether the validation that was due has ended."""
        meta = checkpoint['meta']
        meta['validated'] = self._validated
        if 'dataset_meta' in meta:
            # Resuming reads no classes of MMEngine's configs.
            meta['dataset_meta'] = _plain(meta['dataset_meta'])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Read whether it had; find the best checkpoint where it is now."""
        if not runner._resume:
            return
        meta = checkpoint.get('meta', {})
        self._validate_first = not meta.get('validated', True)
        infos = checkpoint.get('message_hub', {}).get('runtime_info', {})
        folder = self._folder(runner)
        # Also of a copied work dir, whose original has its own.
        inside = is_in(folder, runner._load_from)
        for name, path in infos.items():
            own = osp.join(folder, osp.basename(str(path)))
            if name.startswith('best_ckpt') and osp.isfile(own):
                infos[name] = own if inside or not osp.isfile(path) else path

    def before_train(self, runner: Runner) -> None:
        """Clean up after killed writers; make up for a validation."""
        super().before_train(runner)
        self.file_backend = LateRemovals(self.file_backend, str(self.out_dir))
        if runner._resume:
            # Its file is the last good one, and a new best one comes with a
            # checkpoint to resume from, as in a run that was not interrupted.
            self.last_ckpt = runner._load_from
        if is_main_process():
            for folder in {str(self.out_dir), runner.work_dir}:
                for path in remove_partial_files(folder):
                    runner.logger.info(f'Removed the unfinished {path}')
        if self._validate_first and validation_is_due(runner):
            runner.logger.info(
                'Validating first, as was due when the checkpoint was written'
            )
            runner.val_loop.run()
        self._validate_first = False
        length = length_reached(runner)
        if runner._resume and length:
            runner.logger.warning(
                f'Nothing is left to train: the run has come to {length}. To '
                f'train longer, raise {length.partition("=")[0]}'
            )

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
        if self.save_best is None or self.file_backend is None:
            return  # nothing was trained: a validation by itself
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
        files = set(_listed(str(self.out_dir)))
        try:
            with main_process_writes():
                yield
        except BaseException:
            if is_main_process():
                # A best one whose checkpoint to resume from failed after it.
                written = set(_listed(str(self.out_dir))) - files
                for path in written & self._best():
                    with suppress(OSError):
                        os.remove(path)
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
        if is_main_process():
            in_use = {self.last_ckpt, *self._best()}
            errors = self.file_backend.remove_all_but(in_use)
            for path, error in errors.items():
                runner.logger.warning(f'Could not remove {path}: {error}')
        else:
            self.file_backend.forget()

    def _best(self) -> set[str | None]:
        """Paths of the best checkpoints."""
        several = getattr(self, 'best_ckpt_path_dict', {}).values()
        return {getattr(self, 'best_ckpt_path', None), *several}


def _listed(folder: str) -> list[str]:
    """Paths of what lies in a folder; none if it is on another machine."""
    if not osp.isdir(folder):
        return []
    return [osp.join(folder, name) for name in os.listdir(folder)]


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


def _plain(value: Any) -> Any:
    """The same in dicts, lists and tuples of Python."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value
