#!/usr/bin/env bash
# One machine with one or more NVIDIA GPUs: the quickstart's command with the CUDA build of JAX, on all GPUs there are.
#
#   bash launch/gpu_node.sh --config=configs/math_ift.py:paper --workdir=runs/math_ift
#   CUDA_VISIBLE_DEVICES=0 bash launch/gpu_node.sh --config=configs/math_ift.py --workdir=runs/one_gpu
#   bash launch/gpu_node.sh --dry_run --config=...      prints the commands and does nothing
#
# Several machines without Slurm: the same command on each, which is told where process 0 is, how many there are, and
# which it is (LFL_COORDINATOR, LFL_PROCESSES and LFL_PROCESS_ID do as well; see docs/distributed.md):
#   bash launch/gpu_node.sh --config=... --workdir=/shared/runs/math_ift \
#       --distributed --coordinator=10.0.0.1:8476 --processes=2 --process_id=0
#
# The first time it makes .venv with the extra cuda12 (5.5 GB). Data and weights come first, once, by hand:
#   .venv/bin/python -m lfl_jax.fetch math-ift-paper evals
set -euo pipefail
source "$(dirname "$0")/common.sh"
in_checkout "$(dirname "$0")/.."

run nvidia-smi --list-gpus || fail "no NVIDIA GPU answers nvidia-smi on this machine"
[[ -x .venv/bin/python ]] || run "${PYTHON:-python3}" -m venv .venv
install cuda12
last .venv/bin/python -m lfl_jax.main "$@"
