#!/usr/bin/env bash
# One machine with one or more NVIDIA GPUs: the quickstart's command with the CUDA build of JAX, on all GPUs there are.
#
#   bash launch/gpu_node.sh --config=configs/math_ift.py:paper --workdir=runs/math_ift
#   CUDA_VISIBLE_DEVICES=0 bash launch/gpu_node.sh --config=configs/math_ift.py --workdir=runs/one_gpu
#
# The first time it makes .venv with the extra cuda12 (5.5 GB). Data and weights come first, once, by hand:
#   .venv/bin/python -m lfl_jax.fetch math-ift-paper evals
set -euo pipefail
cd "$(dirname "$0")/.."

nvidia-smi --list-gpus || { echo "error: no NVIDIA GPU answers nvidia-smi on this machine" >&2; exit 2; }

if [[ ! -x .venv/bin/python ]]; then
    "${PYTHON:-python3}" -m venv .venv
fi
# PYTHONWARNINGS: setuptools warns of every editable install, at length
PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[cuda12]'
exec .venv/bin/python -m lfl_jax.main "$@"
