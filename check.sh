#!/usr/bin/env bash
# All checks of the project: lint, formatting, and the tests with types and shapes checked and warnings as errors.
#
#   bash check.sh                   everything (arguments go to pytest: `bash check.sh tests/core -k mask`)
#   PYTHON=python3.13 bash check.sh with another Python (3.11 to 3.13; default python3.11)
#   NEWER_PYTHON=python3.13 ...      the Python for the GPU kernels' tests where jax is older than 0.11 (python3.12)
#
# It works in its own environments, .venv-check and .venv-check-newer, made anew when setup.cfg or the Python changes.
set -euo pipefail
cd "$(dirname "$0")"

python=${PYTHON:-python3.11}
env=.venv-check
export JAX_PLATFORMS=cpu
# Most of the time is compilation, and many tests compile the same programs; the next check finds them, too.
export JAX_COMPILATION_CACHE_DIR=$PWD/$env/compiled JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

say() { printf '\n== %s\n' "$*"; }

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null || {
    echo "error: $python is not a Python 3.11, 3.12 or 3.13; name one with PYTHON=..." >&2
    exit 2
}

# make_env PYTHON FOLDER PACKAGES...: an environment, current when it was made from this setup.cfg, by this Python, here.
make_env() {
    local python=$1 env=$2 stamp
    shift 2
    stamp=$({ "$python" --version; pwd; cat setup.cfg pyproject.toml; echo "$@"; } | cksum)
    [[ "$(cat "$env/stamp" 2>/dev/null)" == "$stamp" ]] && return
    say "installing $* into $env (about 2 minutes)"
    rm -rf "$env"
    "$python" -m venv "$env"
    "$env/bin/python" -m pip install --quiet --upgrade pip
    # PYTHONWARNINGS: setuptools warns of every editable install, at length
    PYTHONWARNINGS=ignore "$env/bin/python" -m pip install --quiet -e "$@"
    echo "$stamp" > "$env/stamp"
}
make_env "$python" "$env" '.[test]'

say "ruff check"
"$env/bin/ruff" check .

say "ruff format --check"
"$env/bin/ruff" format --check .

say "fetching what some tests need"
"$env/bin/python" -m lfl_jax.fetch smollm2-135m evals || echo "not fetched: the tests that need it will be skipped"

say "pytest"
"$env/bin/python" -m pytest -q -m "not slow" -n 2 --dist loadfile --durations=15 -rs "$@"

# The GPU kernels are interpreted by jax 0.11 or newer, which needs Python 3.12.
newer=${NEWER_PYTHON:-python3.12}
if [[ $# -gt 0 ]] || "$env/bin/python" -c 'import jax, sys; sys.exit(jax.__version_info__ < (0, 11))'; then
    exit 0
elif "$newer" -c '' 2>/dev/null; then
    make_env "$newer" "$env-newer" . pytest hypothesis beartype
    say "pytest: GPU kernels, interpreted"
    "$env-newer/bin/python" -m pytest -q -m "not slow" tests/kernels -k "gpu or lowering"
else
    say "not run: the GPU kernels' tests, which need Python 3.12 or newer; name one with NEWER_PYTHON=..."
fi
