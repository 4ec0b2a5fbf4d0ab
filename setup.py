# Copyright (c) The serkd_mm authors. All rights reserved.
"""Build and installation of serkd_mm.

Two things here are more than a list of names: requirements that another
distribution of the same module already meets (:func:`choose_requirement`),
and the copy of configs and tools inside the wheel (:class:`BuildWithMim`).
"""

import re
import shutil
import site
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM_PARTS = ('configs', 'tools', 'model-index.yml')

# True hard limits only; the set that is known to work together is pinned in
# requirements/constraints.txt.
INSTALL_REQUIRES = [
    'torch>=2.1',
    'torchvision',
    'numpy',
    # MMRazor imports joblib without declaring it.
    'joblib',
    # MMEngine reads `package::config` paths through pkg_resources, which
    # setuptools 82 no longer has.
    'setuptools<82',
    'mmrazor>=1.0.0,<2',
]

# What is asked for if nothing else provides the module, and the other
# distributions that provide it, of any version. The bounds of mmcv are those
# that MMPretrain 1.2 and MMRazor 1.0 assert on import. mmcv-lite is the one
# that installs everywhere: no compiled operator of mmcv is used here.
ALTERNATIVES = [
    ('mmcv-lite>=2.0.0,<=2.1.0', ('mmcv', 'onedl-mmcv')),
    ('mmengine>=0.8.3,<1.0.0', ('onedl-mmengine', 'mmengine-lite')),
    ('mmpretrain>=1.0.0,<2', ('onedl-mmpretrain',)),
]

QUICKSTART = ['scikit-learn', 'matplotlib']
# tools/export_student.py --onnx
EXPORT = ['onnx', 'onnxruntime', 'onnxscript']
# What `tools/benchmark.py peers` measures beside MMRazor.
PEERS = [
    'timm>=1.0.25; python_version >= "3.10"',
    'torchdistill; python_version >= "3.10"',
]
DEV = [
    *QUICKSTART,
    *EXPORT,
    *PEERS,
    'pytest>=7.4',
    'pytest-xdist>=3.2',
    'hypothesis>=6.80',
    # The formatter's style may change with every minor version.
    'ruff>=0.17.0,<0.18',
    'mypy>=1.10',
    # The kernels are tested in Triton's interpreter; no GPU is needed.
    'triton; platform_system == "Linux" and platform_machine == "x86_64"',
    # The tests build a wheel with the interpreter they run in.
    'setuptools>=64,<82',
    'wheel',
]
EXTRAS_REQUIRE = {
    'quickstart': QUICKSTART,
    'export': EXPORT,
    'dev': DEV,
    'all': sorted({*QUICKSTART, *DEV}),
}


def search_paths():
    """Folders in which the target interpreter keeps its distributions.

    pip builds in isolation: a subprocess of the target's interpreter whose
    ``sys.path`` lacks the target's site-packages. The interpreter's own
    paths still name them.
    """
    paths = [*sys.path]
    paths += [sysconfig.get_path(name) for name in ('purelib', 'platlib')]
    prefixes = [sys.prefix]
    config = Path(sys.prefix, 'pyvenv.cfg')
    if config.is_file() and re.search(
        r'(?mi)^include-system-site-packages\s*=\s*true', config.read_text()
    ):
        prefixes.append(sys.base_prefix)
    paths += site.getsitepackages(prefixes)
    if site.ENABLE_USER_SITE:
        paths.append(site.getusersitepackages())
    return list(dict.fromkeys(paths))


def normalized(name):
    """Name of a distribution as package indexes compare it."""
    return re.sub(r'[-_.]+', '-', name).lower()


def installed_names(paths):
    """Normalized names of the distributions installed in ``paths``."""
    return {
        normalized(distribution.metadata['Name'])
        for distribution in metadata.distributions(path=paths)
        if distribution.metadata['Name']
    }


def choose_requirement(default, alternatives, installed):
    """Ask for an installed alternative, otherwise for the default.

    The alternative is named without bounds, so that pip leaves the version
    in place that its owner chose. Whether it suits is left to MMRazor and
    MMPretrain, which check their versions when imported.

    Args:
        default (str): Requirement to state if no alternative is installed.
        alternatives (Sequence[str]): Distributions with the same module, the
            preferred one first.
        installed (Set[str]): Normalized names of what is installed.

    Returns:
        str: The requirement.
    """
    for name in alternatives:
        if name in installed:
            return name
    return default


def install_requires():
    """The fixed requirements and those that depend on the environment."""
    installed = installed_names(search_paths())
    return INSTALL_REQUIRES + [
        choose_requirement(default, alternatives, installed)
        for default, alternatives in ALTERNATIVES
    ]


class BuildWithMim(build_py):
    """Adds configs, tools and model index to the wheel as ``.mim``.

    This is where MMEngine and MIM look for a package's configs. They are
    written into the build folder only; an editable installation has none,
    as there the checkout itself holds them.
    """

    def run(self):
        super().run()
        if not getattr(self, 'editable_mode', False):
            self.copy_mim(Path(self.build_lib, 'serkd_mm', '.mim'))

    def copy_mim(self, target):
        # A build folder may be left over from an earlier build.
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        ignored = shutil.ignore_patterns('__pycache__', '*.py[cod]')
        for name in MIM_PARTS:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, target / name, ignore=ignored)
            else:
                shutil.copy2(source, target / name)


def read_version():
    """``__version__`` of the package, without importing it."""
    text = (ROOT / 'serkd_mm' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"__version__ = '([^']+)'", text).group(1)


def read_readme():
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.is_file() else ''


if __name__ == '__main__':
    setup(
        name='serkd_mm',
        version=read_version(),
        description='Semantics-based relation knowledge distillation '
        '(SeRKD) for MMRazor and MMPretrain',
        long_description=read_readme(),
        long_description_content_type='text/markdown',
        author='The serkd_mm authors',
        license='Apache-2.0',
        license_files=['LICENSE'],
        keywords='computer vision, knowledge distillation, transformer',
        classifiers=[
            'Development Status :: 4 - Beta',
            'Intended Audience :: Science/Research',
            'Operating System :: OS Independent',
            'Programming Language :: Python :: 3',
            'Topic :: Scientific/Engineering :: Artificial Intelligence',
        ],
        packages=find_packages(include=['serkd_mm*']),
        python_requires='>=3.9',
        install_requires=install_requires(),
        extras_require=EXTRAS_REQUIRE,
        entry_points={'console_scripts': ['serkd=serkd_mm.cli:main']},
        cmdclass={'build_py': BuildWithMim},
        zip_safe=False,
    )
