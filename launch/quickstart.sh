#!/usr/bin/env bash
# From a bare machine to a finetuned model with a report, on CPU and from PyPI alone: less than 10 minutes on 2 cores,
# 1.5 GB of disk.
#
#   bash launch/quickstart.sh                    configs/math_ift.py; docs/first_run.md explains what it prints
#   bash launch/quickstart.sh --config.optim.lr=1e-4 --config.eval.limit=0
#   bash launch/quickstart.sh --dry_run          prints the commands and does nothing
#   PYTHON=python3.12 bash launch/quickstart.sh  with this Python (3.11, 3.12 or 3.13)
#
# It makes .venv in the checkout, installs the package there, fetches the embedded model and the evaluation data into
# the cache ($LFL_CACHE, default ~/.cache/lfl_jax) and runs the training command. Run again, it skips what is done:
# a finished run is reported, an interrupted one resumes.
set -euo pipefail
source "$(dirname "$0")/common.sh"
in_checkout "$(dirname "$0")/.."

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; }

find_python() {
    # PYTHON may name several, apart by spaces.
    for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13}; do
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "${PYTHON:-python3} is not a Python 3.11, 3.12 or 3.13; install one, or name one with PYTHON=..."
}

if supported .venv/bin/python; then
    say "1/4 using the .venv that is here"
else
    python=$(find_python)
    say "1/4 making .venv with $("$python" --version)"
    run rm -rf .venv
    run "$python" -m venv .venv
fi

say "2/4 installing lfl_jax and what it needs (one to two minutes the first time)"
install plots

say "3/4 fetching the embedded model and the evaluation data (180 MB the first time)"
run .venv/bin/python -m lfl_jax.fetch smollm2-135m evals

say "4/4 training and evaluating"
last .venv/bin/python -m lfl_jax.main --config=configs/math_ift.py --workdir=runs/quickstart "$@"
