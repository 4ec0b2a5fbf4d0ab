#!/usr/bin/env bash
# Copyright (c) The serkd_mm authors. All rights reserved.
#
# Set up the environment, then check and test: what people and CI run.
# Arguments go to pytest:
#
#   bash tools/run_tests.sh -k superpixel
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source tools/setup_env.sh dev

echo '== ruff check'
"$PYTHON_BIN" -m ruff check .
echo '== ruff format'
"$PYTHON_BIN" -m ruff format --check .
echo '== mypy'
"$PYTHON_BIN" -m mypy
echo '== pytest'
exec "$PYTHON_BIN" -m pytest -q --durations=10 "$@"
