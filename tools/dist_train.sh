#!/usr/bin/env bash
# Train on several GPUs: tools/dist_train.sh CONFIG GPUS [options of train.py]
# Environment: NNODES, NODE_RANK, MASTER_ADDR, PORT for several machines;
# MAX_RESTARTS, how often a job whose process died starts again by itself, from
# its last checkpoint (0); PYTHON for another interpreter than python.
# Exit code: 0 trained to the end; 143 ended by SIGTERM, --resume goes on.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: $0 CONFIG GPUS [options of tools/train.py]" >&2
  exit 2
fi
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
config=$1
gpus=$2
shift 2

PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" \
  "$tools/launch.py" \
  --nnodes="${NNODES:-1}" \
  --node_rank="${NODE_RANK:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" \
  --master_port="${PORT:-29500}" \
  --nproc_per_node="$gpus" \
  --max_restarts="${MAX_RESTARTS:-0}" \
  "$tools/train.py" "$config" --launcher pytorch "$@"
