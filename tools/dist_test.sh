#!/usr/bin/env bash
# Evaluate on several GPUs:
# tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]
# Environment: NNODES, NODE_RANK, MASTER_ADDR, PORT and PYTHON as for
# dist_train.sh.
set -euo pipefail
if ! [[ ${3-} =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 CONFIG CHECKPOINT GPUS [options of tools/test.py]" >&2
  echo "GPUS, processes to start, is a positive integer${3+, got '$3'}" >&2
  exit 2
fi
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
config=$1
checkpoint=$2
gpus=$3
shift 3

PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" \
  -m torch.distributed.run \
  --nnodes="${NNODES:-1}" \
  --node_rank="${NODE_RANK:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" \
  --master_port="${PORT:-29500}" \
  --nproc_per_node="$gpus" \
  "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
