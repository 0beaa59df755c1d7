#!/usr/bin/env bash
# From a bare machine to a finetuned model with a report, on CPU and from PyPI alone: less than 10 minutes on 2 cores,
# 1.5 GB of disk.
#
#   bash launch/quickstart.sh                    configs/math_ift.py; docs/first_run.md explains what it prints
#   bash launch/quickstart.sh --config.optim.lr=1e-4 --config.eval.limit=0
#   PYTHON=python3.12 bash launch/quickstart.sh  with this Python (3.11, 3.12 or 3.13)
#
# It makes .venv in the checkout, installs the package there, fetches the embedded model and the evaluation data into
# the cache ($LFL_CACHE, default ~/.cache/lfl_jax) and runs the training command. Run again, it skips what is done:
# a finished run is reported, an interrupted one resumes.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13}; do
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "error: ${PYTHON:-python3} is not a Python 3.11, 3.12 or 3.13; install one, or name one with PYTHON=..." >&2
    return 2
}

if ! supported .venv/bin/python; then
    python=$(find_python)
    say "1/4 making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
else
    say "1/4 using the .venv that is here"
fi

say "2/4 installing lfl_jax and what it needs (one to two minutes the first time)"
# PYTHONWARNINGS: setuptools warns of every editable install, at length
PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[plots]'

say "3/4 fetching the embedded model and the evaluation data (180 MB the first time)"
.venv/bin/python -m lfl_jax.fetch smollm2-135m evals

say "4/4 training and evaluating"
exec .venv/bin/python -m lfl_jax.main --config=configs/math_ift.py --workdir=runs/quickstart "$@"
