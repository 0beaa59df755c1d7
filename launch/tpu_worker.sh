#!/usr/bin/env bash
# What launch/tpu_pod.sh runs on every worker of a TPU slice, in the checkout that it copied there.
#
#   bash launch/tpu_worker.sh --config=configs/math_ift.py:paper --workdir=/mnt/shared/runs/math_ift
#
# It runs what MOUNT says (a command that mounts the shared file system), makes .venv with the extra tpu, fetches what
# FETCH names into the cache (default: smollm2-135m evals) and runs the command; jax finds the other workers by itself.
# --dry_run prints the commands and does nothing.
set -euo pipefail
source "$(dirname "$0")/common.sh"
in_checkout "$(dirname "$0")/.."

if [[ ${MOUNT:-} ]]; then
    run bash -c "$MOUNT"
fi

python=${PYTHON:-python3}
if [[ -x .venv/bin/python ]]; then
    say "using the .venv that is here"
elif "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    run "$python" -m venv .venv
else
    # Images of TPU VMs have an older Python; uv fetches one.
    run "$python" -m pip install --quiet --user uv
    run "$python" -m uv venv --quiet --seed --python=3.12 .venv
fi
install tpu

read -r -a names <<< "${FETCH:-smollm2-135m evals}"
run .venv/bin/python -m lfl_jax.fetch "${names[@]}"
last .venv/bin/python -m lfl_jax.main --distributed "$@"
