#!/usr/bin/env bash
# Train on several GPUs: tools/dist_train.sh CONFIG GPUS [options of train.py]
# Environment: NNODES, NODE_RANK, MASTER_ADDR, PORT for several machines;
# MAX_RESTARTS, how often a job whose process died starts again by itself, from
# its last checkpoint (0); PYTHON for another interpreter than python.
# Exit code: 0 trained to the end; 143 ended by SIGTERM, --resume goes on.
set -euo pipefail
if ! [[ ${2-} =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 CONFIG GPUS [options of tools/train.py]" >&2
  echo "GPUS, processes to start, is a positive integer${2+, got '$2'}" >&2
  exit 2
fi
if ! [[ ${MAX_RESTARTS:-0} =~ ^[0-9]+$ ]]; then
  echo "MAX_RESTARTS is a number of restarts, got '$MAX_RESTARTS'" >&2
  exit 2
fi
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
config=$1
gpus=$2
shift 2

address=${MASTER_ADDR:-127.0.0.1}
port=${PORT:-29500}
node=${NODE_RANK:-0}
if [ "${MAX_RESTARTS:-0}" -gt 0 ]; then
  # A store per start: from a shared one, which torchrun has by default, the
  # restarted processes read the addresses of the dead ones (torch 2.13). This
  # rendezvous numbers the nodes itself; node 0 is the host.
  export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
  rendezvous=(
    --rdzv_backend=c10d
    --rdzv_id=serkd_mm
    --rdzv_endpoint="$address:$port"
    --rdzv_conf="is_host=$((node == 0))"
    --max_restarts="$MAX_RESTARTS"
  )
else
  rendezvous=(
    --node_rank="$node"
    --master_addr="$address"
    --master_port="$port"
  )
fi

PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" \
  "$tools/launch.py" \
  --nnodes="${NNODES:-1}" \
  --nproc_per_node="$gpus" \
  "${rendezvous[@]}" \
  "$tools/train.py" "$config" --launcher pytorch "$@"
