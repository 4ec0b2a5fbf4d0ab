#!/usr/bin/env bash
# Copyright (c) The serkd_mm authors. All rights reserved.
#
# From a fresh clone to a student that learns from a teacher: set up the
# environment, train on scikit-learn's digits, print a table, draw pictures.
# Arguments go to tools/quickstart.py:
#
#   bash tools/quickstart.sh --out /tmp/quickstart
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

source "$root/tools/setup_env.sh" quickstart

exec "$PYTHON_BIN" -W ignore "$root/tools/quickstart.py" "$@"
