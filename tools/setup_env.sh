#!/usr/bin/env bash
# Copyright (c) The serkd_mm authors. All rights reserved.
#
# Set up the Python environment of this checkout; made to be sourced:
#
#   source tools/setup_env.sh [quickstart|dev|all]
#
# It uses the active virtual environment, else .venv in the repository root,
# which it makes with $PYTHON, python3.11 or python3. What is there already
# is kept: in an environment of your own the installed torch, mmcv and so on
# stay in place; only what is missing comes from the known-good set of
# requirements/constraints.txt. Sets and exports PYTHON_BIN.

serkd_find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3; do
    if [ -n "$candidate" ] && "$candidate" -c '' 2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  echo 'error: no Python found; set PYTHON to a Python >= 3.9' >&2
  return 1
}

serkd_check_python() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 9))' && return 0
  echo "error: serkd_mm needs Python >= 3.9, but $1 is" \
    "$("$1" -c 'import platform; print(platform.python_version())')" >&2
  return 1
}

# serkd_step TITLE COMMAND...: one line of progress; output only on failure.
serkd_step() {
  local title=$1 log
  shift
  echo "$title"
  log=$(mktemp) || return 1
  if "$@" >"$log" 2>&1; then
    rm -f "$log"
    return 0
  fi
  tail -n 15 "$log" >&2
  rm -f "$log"
  echo "error: step failed: $title" >&2
  return 1
}

# serkd_constraints CONSTRAINTS: the constraints, with the installed versions
# in place of the pins of the stack that training runs on.
serkd_constraints() {
  "$PYTHON_BIN" - "$1" <<'PYTHON'
import re
import sys
from importlib.metadata import PackageNotFoundError, version

STACK = ('torch', 'torchvision', 'numpy', 'opencv-python', 'mmcv-lite',
         'mmengine', 'mmpretrain', 'mmrazor')
installed = {}
for name in STACK:
    try:
        installed[name] = version(name).split('+')[0]
    except PackageNotFoundError:
        pass
for line in open(sys.argv[1]):
    name = re.match(r'[\w-]*', line).group()
    if name in installed:
        print(f'{name}=={installed[name]}')
    elif name != 'torchvision' or 'torch' not in installed:
        print(line, end='')
PYTHON
}

# serkd_stamp ROOT EXTRA: what an installation depends on, as a hash.
serkd_stamp() {
  "$PYTHON_BIN" - "$@" <<'PYTHON'
import hashlib
import pathlib
import sys

root = pathlib.Path(sys.argv[1])
digest = hashlib.sha256('\n'.join(sys.argv[1:]).encode())
for name in ('setup.py', 'requirements/constraints.txt'):
    digest.update((root / name).read_bytes())
print(digest.hexdigest()[:16])
PYTHON
}

serkd_setup_env() {
  local extra=$1 root venv own=no base stamp constraints
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || return 1
  venv=${VIRTUAL_ENV:-$root/.venv}
  [ "$venv" = "$root/.venv" ] && own=yes

  export PYTHON_BIN=$venv/bin/python
  if [ -x "$PYTHON_BIN" ]; then
    serkd_check_python "$PYTHON_BIN" || return 1
    stamp=$venv/.serkd_mm-$(serkd_stamp "$root" "$extra") || return 1
    if [ -f "$stamp" ] && "$PYTHON_BIN" -m pip show -q serkd_mm; then
      echo "environment: $venv is up to date ($extra), nothing to do"
      return 0
    fi
    echo "[1/4] virtual environment $venv (exists)"
  else
    base=$(serkd_find_python) || return 1
    serkd_check_python "$base" || return 1
    serkd_step "[1/4] virtual environment $venv" \
      "$base" -m venv "$venv" || {
      [ "$own" = yes ] && rm -rf "$venv"
      return 1
    }
    stamp=$venv/.serkd_mm-$(serkd_stamp "$root" "$extra") || return 1
  fi

  constraints=$root/requirements/constraints.txt
  if [ "$own" = no ]; then
    serkd_constraints "$constraints" >"$venv/serkd_mm-constraints.txt" ||
      return 1
    constraints=$venv/serkd_mm-constraints.txt
  fi
  local pip=("$PYTHON_BIN" -m pip --disable-pip-version-check install -q
    -c "$constraints")
  serkd_step '[2/4] PyTorch (the largest download)' \
    "${pip[@]}" torch torchvision 'setuptools>=64,<82' wheel || return 1
  serkd_step "[3/4] serkd_mm[$extra] with MMEngine, MMPretrain, MMRazor" \
    "${pip[@]}" --no-build-isolation -e "$root[$extra]" || return 1
  serkd_step '[4/4] import serkd_mm' \
    bash -c 'cd / && exec "$1" -c "import serkd_mm"' - "$PYTHON_BIN" ||
    return 1
  touch "$stamp"
}

serkd_setup_env "${1:-quickstart}"
