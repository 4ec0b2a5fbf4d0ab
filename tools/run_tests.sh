#!/usr/bin/env bash
# Copyright (c) The serkd_mm authors. All rights reserved.
#
# Set up the environment, then check and test: what people and CI run.
# The tests run in two processes, each file in one of them. Arguments go to
# pytest; -n 0 keeps all in one process, as a debugger needs it:
#
#   bash tools/run_tests.sh -k superpixel -n 0 --pdb
#
# With --oldest or --onedl first, the tests nearest to other packages on
# another stack instead, in an environment of its own (.venv-oldest,
# .venv-onedl) with the versions of requirements/oldest.txt or
# requirements/onedl.txt:
#
#   bash tools/run_tests.sh --oldest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# test_stack NAME [ARGUMENTS OF PYTEST]
test_stack() {
  local venv=$PWD/.venv-$1 requirements=requirements/$1.txt
  shift
  if ! cmp -s "$requirements" "$venv/installed.txt"; then
    echo "installing $requirements into $venv"
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv "$venv"
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check install -q)
    # Built without torch at hand, the fork of MMCV leaves out its operators:
    # seconds instead of most of an hour, and nothing here needs them.
    local fork
    fork=$(grep '^onedl-mmcv' "$requirements" || true)
    [ -z "$fork" ] || "${pip[@]}" --no-deps "$fork"
    # mmcv-lite builds from source with the setuptools and torch that are there.
    "${pip[@]}" $(grep -E '^(torch|torchvision|setuptools)\b' "$requirements") wheel
    "${pip[@]}" --no-build-isolation -r "$requirements"
    cp "$requirements" "$venv/installed.txt"
  fi
  PYTHONPATH=$PWD "$venv/bin/python" -W ignore -c 'import serkd_mm'
  PYTHONPATH=$PWD OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} exec \
    "$venv/bin/python" -W ignore -m pytest -q \
    tests/functional tests/ops tests/models tests/engine tests/datasets \
    tests/test_compat.py "$@"
}

case ${1:-} in
  --oldest | --onedl) test_stack "${1#--}" "${@:2}" ;;
esac

source tools/setup_env.sh dev

echo '== ruff check'
"$PYTHON_BIN" -m ruff check .
echo '== ruff format'
"$PYTHON_BIN" -m ruff format --check .
echo '== mypy'
"$PYTHON_BIN" -m mypy
echo '== pytest'
exec "$PYTHON_BIN" -m pytest -q --durations=10 -n 2 --dist loadfile "$@"
