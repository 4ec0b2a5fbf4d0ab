# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from typing import Any

from mmengine.runner import Runner

from .runner_parts import unwrapped_model

# What loading the weights of another network raises; position embeddings are
# asserted to fit.
MISFITS = (RuntimeError, AssertionError)


class OtherModelError(ValueError):
    """A checkpoint that is of another model than the config's."""


def require_whole_checkpoint(
    runner: Runner, config: str | None = None
) -> None:
    """Refuse a checkpoint that is of another model than the runner's.

    MMEngine prints which weights it did not find and goes on with those that
    the model was built with, so that a run resumes from, or a test measures,
    random numbers. A model without distiller, as it is tested, does without
    the weights of one.

    Args:
        runner: Its ``load_checkpoint`` raises OtherModelError, in one line,
            from now on if keys or shapes differ.
        config: What the message calls the config, None for its file.
    """
    load = runner.load_checkpoint
    model = unwrapped_model(runner)
    if not hasattr(model, 'distiller'):
        model._register_load_state_dict_pre_hook(_drop_distillation)

    def load_whole(filename: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return load(filename, *args, **{**kwargs, 'strict': True})
        except MISFITS as error:
            why = str(error).strip()
            if isinstance(error, RuntimeError) and not why.startswith(
                'The model and loaded state dict'
            ):
                raise
            name = config or getattr(runner.cfg, 'filename', None)
            raise OtherModelError(
                f'checkpoint {filename} does not belong to the config'
                f'{f" {name}" if name else ""}: {why_misfit(error)}; use the '
                'config that it was trained with'
            ) from None

    runner.load_checkpoint = load_whole


def why_misfit(error: Exception) -> str:
    """What a strict loading complains of, in one line.

    Of each kind of mistake the first keys.
    """
    lines = []
    kinds = str(error).strip().splitlines()[1:]
    for line in kinds if isinstance(error, RuntimeError) else ():
        names = line.strip().split(', ')
        if names != ['']:
            lines.append(', '.join(names[:3] + ['...'] * (len(names) > 3)))
    text = ' '.join(('; '.join(lines[:4]) or str(error)).split())
    return text if text.endswith('...') else text.rstrip('.')


def _drop_distillation(state_dict: dict, prefix: str, *_: Any) -> None:
    names = (f'{prefix}distiller.', f'{prefix}teacher.')
    for key in [key for key in state_dict if key.startswith(names)]:
        del state_dict[key]
