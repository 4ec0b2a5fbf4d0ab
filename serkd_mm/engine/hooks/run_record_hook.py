# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import json
import os.path as osp
import shlex
import sys
import time

from mmengine.dist import get_world_size, master_only
from mmengine.fileio import put_text
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.utils.dl_utils import collect_env
from torch import nn

from ..runner_parts import unwrapped_model

RUN_RECORD = 'run.json'
# Of a validation in runs of iterations, for which MMEngine logs epoch 0.
ITERATION = 'iteration'


@HOOKS.register_module()
class RunRecordHook(Hook):
    """Writes what a run is, beside what it logs.

    ``run.json`` in the folder of the log holds the command, when the run
    began in seconds since 1970, the number of processes, the environment, the
    weights of the distillation losses and the parameters of both networks.
    The weights are also a line of the log and scalars of the visualizer,
    ``weight/loss_kd`` and the like: what is logged for a loss is the weighted
    value. In runs of iterations a validation is logged with its
    ``iteration``.
    """

    priority = 'VERY_LOW'

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Write the record and log the weights."""
        model = unwrapped_model(runner)
        weights = loss_weights(model)
        record = dict(
            command=shlex.join(['python', *sys.argv]),
            started=time.time(),
            processes=get_world_size(),
            iterations_per_epoch=len(runner.train_dataloader),
            loss_weights=weights,
            parameters={
                name: sum(p.numel() for p in network.parameters())
                for name, network in _networks(model).items()
            },
            environment={k: str(v) for k, v in collect_env().items()},
        )
        path = osp.join(runner.log_dir, RUN_RECORD)
        put_text(json.dumps(record, indent=1), path)
        if weights:
            listed = ', '.join(f'{k} {v:g}' for k, v in weights.items())
            runner.logger.info(f'Weights of the logged losses: {listed}')
            scalars = {f'weight/{k}': v for k, v in weights.items()}
            runner.visualizer.add_scalars(scalars, step=runner.iter)

    def before_val_epoch(self, runner: Runner) -> None:
        """Log the iteration, if the run does not count epochs."""
        # The property would build the loop of a run that only validates.
        if isinstance(runner._train_loop, IterBasedTrainLoop):
            runner.message_hub.update_scalar(f'val/{ITERATION}', runner.iter)


def loss_weights(model: nn.Module) -> dict[str, float]:
    """Weight of each distillation loss that has one."""
    losses = getattr(getattr(model, 'distiller', None), 'distill_losses', {})
    return {
        name: float(loss.loss_weight)
        for name, loss in losses.items()
        if hasattr(loss, 'loss_weight')
    }


def _networks(model: nn.Module) -> dict[str, nn.Module]:
    """Student and teacher of an algorithm; else the model is the student."""
    student = getattr(model, 'architecture', model)
    teacher = getattr(model, 'teacher', None)
    networks = {'student': student}
    return networks if teacher is None else {**networks, 'teacher': teacher}
