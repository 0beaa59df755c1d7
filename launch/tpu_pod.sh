#!/usr/bin/env bash
# The same command on every worker of a Cloud TPU VM or pod slice; jax.distributed finds the other workers by itself.
#
#   TPU=my-v5e-32 ZONE=us-west4-a bash launch/tpu_pod.sh \
#       --config=configs/math_ift.py:paper --workdir=gs://my-bucket/runs/math_ift
#
# TPU and ZONE name a TPU VM that exists; PROJECT is optional. It copies the checkout (committed files only) to each
# worker, installs it there with the extra tpu, fetches what FETCH names (default: smollm2-135m evals) and runs the
# command. Gated models: HF_TOKEN is passed on when it is set. The workdir must be a bucket that all workers can write.
set -euo pipefail
cd "$(dirname "$0")/.."

tpu=${TPU:?set TPU to the name of a TPU VM, see the head of launch/tpu_pod.sh}
zone=${ZONE:?set ZONE to the zone of $TPU}
where=("--zone=$zone" --worker=all ${PROJECT:+"--project=$PROJECT"})

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "${where[@]}" "$archive" "$tpu:lfl_jax.tar.gz"

# Quoted for the shell at the other end; %q of no arguments would be one empty argument.
arguments=""
(($#)) && arguments=$(printf '%q ' "$@")

gcloud compute tpus tpu-vm ssh "${where[@]}" "$tpu" --command="
set -euo pipefail
mkdir -p lfl_jax && tar -xzf lfl_jax.tar.gz -C lfl_jax && cd lfl_jax
[[ -x .venv/bin/python ]] || ${PYTHON:-python3} -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[tpu]'
export HF_TOKEN=$(printf %q "${HF_TOKEN:-}")
.venv/bin/python -m lfl_jax.fetch ${FETCH:-smollm2-135m evals}
.venv/bin/python -m lfl_jax.main --distributed $arguments
"
