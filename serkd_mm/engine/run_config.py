# Copyright (c) The serkd_mm authors. All rights reserved.
"""The config that a checkpoint holds of its run, read as data."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import mmengine.registry
import mmpretrain.registry
import mmrazor.registry
from mmengine.config import Config
from mmengine.registry import Registry


def read_run_config(checkpoint: dict, path: str) -> Config:
    """Config of the run that wrote a checkpoint.

    MMEngine keeps it as the text of a Python file and runs that text to read
    it. Here it is taken apart instead: values, and nothing that computes.

    Args:
        checkpoint: Content of the file.
        path: Name for messages.

    Returns:
        The config; modules that it imports are not imported.

    Raises:
        ValueError: If there is none, if it holds anything but values, or if
            it imports modules that are not imported anyway.
    """
    text = checkpoint.get('meta', {}).get('cfg')
    if not text:
        raise ValueError(
            f'{path} does not hold the config of its run (meta.cfg), as '
            'checkpoints of training runs do; name it with --config'
        )
    try:
        values = {}
        for node in _DictCalls().visit(ast.parse(text)).body:
            (target,) = node.targets
            values[target.id] = ast.literal_eval(node.value)
    except (AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(
            f'the config that {path} holds is more than values ({error}); if '
            'you trust it, name its file with --config'
        ) from None
    imports = (values.get('custom_imports') or {}).get('imports', [])
    imports = [imports] if isinstance(imports, str) else imports
    unknown = [name for name in imports if name not in sys.modules]
    if unknown:
        raise ValueError(
            f'the config that {path} holds imports {", ".join(unknown)}; if '
            'you trust it, name its file with --config'
        )
    return Config(values)


def check_registered(model: Any, path: str) -> None:
    """Refuse classes that no registry knows.

    MMEngine's registries take the path of any callable of any package for a
    type too, and call it.

    Args:
        model: Part of a config.
        path: Where it comes from, for messages.

    Raises:
        ValueError: If a ``type`` is not registered.
    """
    known = registered_classes()
    scopes = {registry.scope for registry in _registries()}
    for name in type_names(model):
        package, _, short = name.rpartition('.')
        found = getattr(sys.modules.get(package), short, None)
        if short not in known or (
            package and package not in scopes and found not in known[short]
        ):
            raise ValueError(
                f'the config that {path} holds builds {name!r}, which is in '
                'no registry; if you trust it, name its file with --config'
            )


def registered_classes() -> dict[str, list]:
    """What is registered with OpenMMLab's packages, by name."""
    classes = defaultdict(list)
    for registry in _registries():
        for name, registered in registry.module_dict.items():
            classes[name].append(registered)
    return classes


def _registries() -> Iterator[Registry]:
    waiting = [
        value
        for package in (mmengine, mmpretrain, mmrazor)
        for value in vars(package.registry).values()
        if isinstance(value, Registry)
    ]
    while waiting:
        registry = waiting.pop()
        waiting += registry.children.values()
        yield registry


def type_names(config: Any) -> Iterator[str]:
    """All that a config names as a ``type``, from top to bottom."""
    if isinstance(config, dict):
        if isinstance(config.get('type'), str):
            yield config['type']
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for value in config:
            yield from type_names(value)


def unscoped(name: Any) -> str:
    """What a registry knows something by, without the scope in front."""
    return getattr(name, '__name__', str(name)).rpartition('.')[2]


def unscoped_type(part: Any) -> str:
    """Type that a part of a config names, without its scope.

    Example:
        >>> unscoped_type(dict(type='mmpretrain.ImageNet'))
        'ImageNet'
    """
    return unscoped(part.get('type') if isinstance(part, dict) else None)


class _DictCalls(ast.NodeTransformer):
    """Turns ``dict(key=value)`` and ``dict({key: value})`` into literals."""

    def visit_Call(self, node: ast.Call) -> ast.AST:  # noqa: N802
        self.generic_visit(node)
        names = [keyword.arg for keyword in node.keywords]
        called = ast.unparse(node.func)
        if called == 'dict' and len(node.args) == 1 and not names:
            return node.args[0]
        if called != 'dict' or node.args or None in names:
            raise ValueError(f'it calls {ast.unparse(node)[:40]!r}')
        return ast.Dict(
            keys=[ast.Constant(name) for name in names],
            values=[keyword.value for keyword in node.keywords],
        )
