# Copyright (c) The serkd_mm authors. All rights reserved.
"""A suggestion as the text of a config."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .choose import by
from .python_text import WIDTH, Reference, assignment
from .runtime import checked_loading, missing_runtime
from .suggest import IMAGENET, Suggestion
from .trace import TokenSource
from .zoo import ZooNetwork

# Arguments of losses and the networks that they come from.
_SIDES = {'preds_S': 'student', 'preds_T': 'teacher'}


def config_text(suggestion: Suggestion, out: Path | None = None) -> str:
    """Write a suggestion as a config.

    Args:
        suggestion: What the config has to say.
        out: The file that the text is for: paths of config files are written
            relative to it. None writes them as absolute ones.
    """
    base = list(IMAGENET)
    lines = [_header(suggestion)]
    if suggestion.own_data:
        base = [_base_path(suggestion.student, out)]
    lines.append(assignment('_base_', base if len(base) > 1 else base[0]))
    if suggestion.own_data:
        for key, value in _added_to(suggestion.student.cfg).items():
            lines += ['', assignment(key, value)]
    model = dict(
        **(dict(_delete_=True) if suggestion.own_data else {}),
        type='mmrazor.FrozenTeacherDistill',
        architecture=_architecture(suggestion),
        teacher=dict(cfg_path=_teacher_path(suggestion.teacher, out)),
        teacher_ckpt=suggestion.teacher.checkpoint or 'TEACHER.pth',
        input_size=_one_if_square(suggestion.size),
        distiller=_distiller(suggestion),
    )
    lines += ['', assignment('model', model)]
    return '\n'.join(lines) + '\n'


def _added_to(base: Config) -> dict[str, Any]:
    """What a config of another package lacks beside the model."""
    imports = base.get('custom_imports') or {}
    names = dict.fromkeys([*imports.get('imports', []), 'serkd_mm'])
    loads = dict(imports=list(names), allow_failed_imports=False)
    return dict(
        custom_imports=loads, **checked_loading(base), **missing_runtime(base)
    )


def _header(suggestion: Suggestion) -> str:
    """Comment at the head of the config, a line or more per sentence."""
    sentences = [
        f'SeRKD: {suggestion.student.name} learns from '
        f'{suggestion.teacher.name}.',
        f'Traced at {by(suggestion.size)} pixels: the student has '
        f'{_described(suggestion.student_tokens)}, the teacher '
        f'{_described(suggestion.teacher_tokens)}.',
        *suggestion.notes,
        "Weights are the paper's (Eq. 12), not tuned for this pair. Top-1: "
        'not run.',
    ]
    lines = [
        line
        for sentence in sentences
        for line in textwrap.wrap(
            sentence,
            WIDTH - 2,
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]
    return '\n'.join(f'# {line}' for line in lines)


def _described(tokens: TokenSource) -> str:
    others = ' and '.join(
        f'{where} {count} {kind} token{"s" * (count > 1)}'
        for where, kind, count in (
            ('behind', 'prefix', tokens.num_prefix_tokens),
            ('before', 'suffix', tokens.num_suffix_tokens),
        )
        if count
    )
    text = f'{by(tokens.hw)} tokens of width {tokens.channels}'
    if others:
        text += f' {others}'
    return f"{text}, of '{tokens.source}'"


def _architecture(suggestion: Suggestion) -> Any:
    """The student's model: by reference, but for what is changed."""
    model = suggestion.student.cfg.model
    if not suggestion.changes and suggestion.own_data:
        return Reference('_base_.model')
    entries: dict[str, Any] = {}
    for name, value in {**model, **suggestion.changes}.items():
        if name in suggestion.changes:
            value = suggestion.changes[name]
        elif isinstance(value, (dict, list)) and suggestion.own_data:
            value = Reference(f'_base_.model.{name}')
        if value is not None:
            entries[name] = value
    return entries


def _distiller(suggestion: Suggestion) -> dict:
    sides = dict(
        student=suggestion.student_tokens, teacher=suggestion.teacher_tokens
    )
    return dict(
        _scope_='mmrazor',
        type='SeRKDDistiller',
        student_recorders=_recorders(
            suggestion.student_tokens, suggestion.student_logits
        ),
        teacher_recorders=_recorders(
            suggestion.teacher_tokens, suggestion.teacher_logits
        ),
        connectors={
            **{
                f'{side}_tokens': _one_or_all(_tokens(source, suggestion))
                for side, source in sides.items()
            },
            **{
                f'{side}_superpixels': [
                    *_tokens(source, suggestion),
                    dict(
                        type='SuperpixelTokenizer',
                        grid_size=(suggestion.cell, suggestion.cell),
                        norm='ln',
                    ),
                ]
                for side, source in sides.items()
            },
        },
        distill_losses=_losses(suggestion),
        loss_forward_mappings=_mappings(suggestion),
    )


def _recorders(tokens: TokenSource, logits: str | None) -> dict:
    recorders = dict(tokens=dict(type='ModuleOutputs', source=tokens.source))
    if logits is not None:
        recorders['logits'] = dict(type='ModuleOutputs', source=logits)
    return recorders


def _tokens(source: TokenSource, suggestion: Suggestion) -> list[dict]:
    """Connectors from a record to tokens on the common grid."""
    visual: dict[str, Any] = dict(type='VisualTokens')
    if not source.is_map:
        visual['num_prefix_tokens'] = source.num_prefix_tokens
        if source.num_suffix_tokens:
            visual['num_suffix_tokens'] = source.num_suffix_tokens
        if source.hw[0] != source.hw[1]:
            visual['hw'] = source.hw
    if source.hw == suggestion.hw:
        return [visual]
    return [visual, dict(type='TokenResizer', hw=suggestion.hw)]


def _one_if_square(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else size


def _one_or_all(connectors: list[dict]) -> Any:
    return connectors[0] if len(connectors) == 1 else connectors


def _losses(suggestion: Suggestion) -> dict:
    kd = dict(type='KLDivergence', tau=1.0, loss_weight=1.0)
    return dict(
        **(dict(loss_kd=kd) if suggestion.teacher_logits else {}),
        loss_feature=dict(
            type='TokenFeatureLoss',
            student_channels=suggestion.student_tokens.channels,
            teacher_channels=suggestion.teacher_tokens.channels,
            loss_weight=1.0,
        ),
        loss_distance=dict(type='TokenDistanceLoss', loss_weight=0.5),
        loss_angle=dict(type='TokenAngleLoss', loss_weight=1.0),
    )


def _mappings(suggestion: Suggestion) -> dict:
    mappings = {}
    if suggestion.teacher_logits:
        mappings['loss_kd'] = {
            argument: dict(recorder='logits', from_student=side == 'student')
            for argument, side in _SIDES.items()
        }
    feature = _token_pair(suggestion, 'tokens')
    for record in feature.values():
        record['connector_idx'] = 0
    mappings['loss_feature'] = feature
    mappings['loss_distance'] = _token_pair(suggestion, 'superpixels')
    mappings['loss_angle'] = _token_pair(suggestion, 'superpixels')
    return mappings


def _token_pair(suggestion: Suggestion, connector: str) -> dict[str, dict]:
    """The tokens of both networks, through a connector each."""
    arguments = {}
    for argument, side in _SIDES.items():
        record: dict[str, Any] = dict(
            recorder='tokens', from_student=side == 'student'
        )
        source: TokenSource = getattr(suggestion, f'{side}_tokens')
        if source.index is not None:
            record['data_idx'] = source.index
        record['connector'] = f'{side}_{connector}'
        arguments[argument] = record
    return arguments


def _base_path(network: ZooNetwork, out: Path | None) -> str:
    if '::' in network.path or out is None:
        return network.path
    folder = out.resolve().parent
    return Path(os.path.relpath(network.path, folder)).as_posix()


def _teacher_path(teacher: ZooNetwork, out: Path | None) -> str:
    path = _base_path(teacher, out)
    return path if path == teacher.path else '{{ fileDirname }}/' + path
