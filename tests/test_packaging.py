# Copyright (c) The serkd_mm authors. All rights reserved.
"""The wheel, its requirements and the files that describe the package."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from mmengine.config import Config
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def run(*command: Any, **kwargs: Any) -> str:
    """Standard output of a command; a failure shows all it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        **kwargs,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: Any) -> None:
    options = ('-q', '--disable-pip-version-check', '--no-deps')
    run(sys.executable, '-m', 'pip', *arguments, *options)


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location('_setup', ROOT / 'setup.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_distribution(info: Path, name: str) -> None:
    """What an installed distribution leaves behind for its name."""
    info.mkdir()
    version = info.stem.split('-')[1]
    (info / 'METADATA').write_text(
        f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
    )


def tracked_files() -> list[str]:
    listing = run(
        'git', '-c', f'safe.directory={ROOT}', 'ls-files', '-z', cwd=ROOT
    )
    return [n for n in listing.split('\0') if n and (ROOT / n).is_file()]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the files that git knows."""
    source = tmp_path_factory.mktemp('source')
    for name in tracked_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    folder = tmp_path_factory.mktemp('wheel')
    pip('wheel', '--no-build-isolation', '-w', folder, source)
    (path,) = folder.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH that holds the installed wheel."""
    folder = tmp_path_factory.mktemp('installed')
    pip('install', '--target', folder, wheel)
    return folder


@pytest.fixture(scope='module')
def wheel_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [
            name
            for name in archive.namelist()
            if name.endswith('.dist-info/METADATA')
        ]
        return message_from_string(archive.read(name).decode())


def load_elsewhere(installed: Path, folder: Path, base: str) -> dict:
    """Config with this ``_base_``, loaded where there is no checkout."""
    (folder / 'config.py').write_text(f'_base_ = {base}\n')
    script = (
        'import json\n'
        'from mmengine.config import Config\n'
        'import serkd_mm\n'
        "config = Config.fromfile('config.py').to_dict()\n"
        "print(json.dumps([serkd_mm.__file__, config['model'],"
        " config['train_dataloader']['batch_size']]))\n"
    )
    output = run(
        sys.executable,
        '-c',
        script,
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(installed)},
    )
    origin, model, batch_size = json.loads(output.splitlines()[-1])
    assert Path(origin) == installed / 'serkd_mm' / '__init__.py'
    return dict(model=model, batch_size=batch_size)


@pytest.fixture(scope='module')
def checkout_config() -> dict:
    config = Config.fromfile(ROOT / 'configs/serkd_deit-s.py').to_dict()
    loaded = json.loads(json.dumps(config['model']))
    batch_size = config['train_dataloader']['batch_size']
    return dict(model=loaded, batch_size=batch_size)


def test_wheel_has_every_tracked_config_and_tool(wheel: Path) -> None:
    expected = {
        name
        for name in tracked_files()
        if name.startswith(('configs/', 'tools/'))
    }
    expected.add('model-index.yml')
    prefix = 'serkd_mm/.mim/'
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        packed = {n[len(prefix) :] for n in names if n.startswith(prefix)}
        assert packed == expected
        for name in expected:
            assert archive.read(prefix + name) == (ROOT / name).read_bytes()


def test_wheel_has_every_module_and_no_tests(wheel: Path) -> None:
    modules = {n for n in tracked_files() if n.startswith('serkd_mm/')}
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert modules <= set(names)
    assert {name.split('/')[0].split('-')[0] for name in names} == {'serkd_mm'}


def test_package_prefix_reaches_configs_of_the_wheel(
    installed: Path, tmp_path: Path, checkout_config: dict
) -> None:
    base = "'serkd_mm::serkd_deit-s.py'"
    assert load_elsewhere(installed, tmp_path, base) == checkout_config


def test_installed_path_reaches_configs_of_the_wheel(
    installed: Path, tmp_path: Path, checkout_config: dict
) -> None:
    base = f"'{installed}/serkd_mm/.mim/configs/serkd_deit-s.py'"
    assert load_elsewhere(installed, tmp_path, base) == checkout_config


def test_get_config_finds_the_configs_of_the_wheel(
    installed: Path, tmp_path: Path
) -> None:
    script = (
        'import serkd_mm\n'
        'from mmengine.hub import get_config\n'
        "cfg = get_config('serkd_mm::serkd_deit-ti.py')\n"
        'print(cfg.model.architecture.backbone.arch, cfg.filename)\n'
    )
    output = run(
        sys.executable,
        '-c',
        script,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(installed)},
    )
    path = installed / 'serkd_mm' / '.mim' / 'configs' / 'serkd_deit-ti.py'
    assert output.splitlines()[-1] == f'deit-tiny {path}'


def test_version_and_python_of_the_wheel(wheel_metadata: Message) -> None:
    version: dict = {}
    exec((ROOT / 'serkd_mm/version.py').read_text(), version)
    assert wheel_metadata['Version'] == version['__version__']
    assert wheel_metadata['Requires-Python'] == '>=3.9'


def test_extras_of_the_wheel(wheel_metadata: Message) -> None:
    extras: dict[str, set] = {}
    for line in wheel_metadata.get_all('Requires-Dist', []):
        match = re.match(r"([\w-]+).*extra == ['\"](\w+)['\"]", line)
        if match:
            extras.setdefault(match.group(2), set()).add(match.group(1))
    assert extras['quickstart'] == {'scikit-learn', 'matplotlib'}
    tools = {'pytest', 'hypothesis', 'ruff', 'mypy', 'setuptools', 'wheel'}
    tools |= {'pytest-xdist', 'triton', 'timm', 'torchdistill'}
    assert extras['export'] == {'onnx', 'onnxruntime', 'onnxscript'}
    assert extras['dev'] == extras['quickstart'] | extras['export'] | tools
    assert extras['all'] == extras['dev']


@pytest.mark.parametrize(
    ('requirement', 'inside', 'outside'),
    [
        ('torch', ['2.1.0', '2.13.0', '3.0'], ['2.0.1']),
        ('mmcv-lite', ['2.0.0', '2.1.0'], ['2.0.0rc4', '2.2.0']),
        ('mmengine', ['0.8.3', '0.10.7'], ['0.8.2', '1.0.0']),
        ('mmpretrain', ['1.0.0', '1.2.0'], ['0.25', '2.0']),
        ('mmrazor', ['1.0.0'], ['0.3.1', '2.0']),
        ('setuptools', ['65.5.0', '81.0.0'], ['82.0.0']),
        ('torchvision', ['0.15.1', '0.28.0'], []),
        ('numpy', ['1.23', '2.4'], []),
        ('joblib', ['1.0'], []),
    ],
)
def test_ranges_without_anything_installed(
    monkeypatch: pytest.MonkeyPatch,
    requirement: str,
    inside: list[str],
    outside: list[str],
) -> None:
    setup = load_setup()
    monkeypatch.setattr(setup, 'search_paths', lambda: [])
    stated = {r.name: r for r in map(Requirement, setup.install_requires())}
    assert len(stated) == 9
    versions = stated[requirement].specifier
    assert all(version in versions for version in inside)
    assert not any(version in versions for version in outside)


@pytest.mark.parametrize(
    ('default', 'folder', 'name'),
    [
        ('mmcv-lite', 'mmcv-2.1.0', 'mmcv'),
        ('mmcv-lite', 'onedl_mmcv-2.3.0', 'onedl-mmcv'),
        ('mmengine', 'onedl_mmengine-0.11', 'onedl-mmengine'),
        ('mmengine', 'onedl_mmengine-0.11', 'onedl_mmengine'),
        ('mmengine', 'mmengine_lite-0.10.7', 'mmengine-lite'),
        ('mmpretrain', 'onedl_mmpretrain-1.3', 'onedl-mmpretrain'),
    ],
)
def test_installed_alternative_replaces_the_default(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    default: str,
    folder: str,
    name: str,
) -> None:
    setup = load_setup()
    monkeypatch.setattr(setup, 'search_paths', lambda: [str(tmp_path)])
    before = {Requirement(r).name for r in setup.install_requires()}
    write_distribution(tmp_path / f'{folder}.dist-info', name)
    after = setup.install_requires()
    alternative = name.replace('_', '-')
    # Without bounds: pip is to leave the installed version alone.
    assert alternative in after
    names = {Requirement(r).name for r in after}
    assert names == before - {default} | {alternative}


def test_another_installed_distribution_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_distribution(tmp_path / 'mmcv_extras-2.1.dist-info', 'mmcv-extras')
    setup = load_setup()
    monkeypatch.setattr(setup, 'search_paths', lambda: [str(tmp_path)])
    assert 'mmcv-lite>=2.0.0,<=2.1.0' in setup.install_requires()


def test_isolated_build_sees_the_target_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, 'path', [])
    setup = load_setup()
    assert 'mmrazor' in setup.installed_names(setup.search_paths())


def test_model_index_names_configs_that_exist() -> None:
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert index['Import'] == ['configs/metafile.yml']
    metafile = yaml.safe_load((ROOT / index['Import'][0]).read_text())
    collections = {entry['Name'] for entry in metafile['Collections']}
    models = {entry['Name']: entry for entry in metafile['Models']}
    leaves = {path.stem for path in (ROOT / 'configs').glob('*.py')}
    assert set(models) == leaves
    for name, model in models.items():
        assert model['In Collection'] in collections
        assert model['Config'] == f'configs/{name}.py'
        assert (ROOT / model['Config']).is_file()
        assert model['Weights'] is None


def test_model_index_repeats_the_results_in_the_configs() -> None:
    metafile = yaml.safe_load((ROOT / 'configs/metafile.yml').read_text())
    for model in metafile['Models']:
        (result,) = model['Results']
        top1 = result['Metrics']['Top 1 Accuracy']
        source = model['Metadata']['Source of Results']
        assert f'{top1} ({source})' in (ROOT / model['Config']).read_text()


def test_model_index_loads_as_mmpretrain_reads_it() -> None:
    from modelindex.load_model_index import load

    index = load(str(ROOT / 'model-index.yml'))
    assert [model.name for model in index.models] == [
        'serkd_deit-s',
        'serkd_deit-ti',
    ]


def test_constraints_lie_within_the_limits() -> None:
    setup = load_setup()
    limits = [*setup.INSTALL_REQUIRES, *setup.EXTRAS_REQUIRE['all']]
    limits += [default for default, _ in setup.ALTERNATIVES]
    text = (ROOT / 'requirements/constraints.txt').read_text()
    pins = [
        Requirement(line)
        for line in text.splitlines()
        if line and not line.startswith('#')
    ]
    checked = set()
    for pin in pins:
        for limit in map(Requirement, limits):
            for specifier in pin.specifier:
                if limit.name == pin.name and specifier.operator == '==':
                    assert specifier.version in limit.specifier, pin
                    checked.add(pin.name)
    assert {'torch', 'mmengine', 'mmcv-lite', 'mmrazor'} <= checked
    assert {'mmpretrain', 'ruff', 'mypy', 'pytest'} <= checked
