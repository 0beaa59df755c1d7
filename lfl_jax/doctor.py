"""Prove on your own config what a run relies on: at reduced size, in under three minutes.

    python -m lfl_jax.doctor --config=configs/math_ift.py

--config=FILE[:ARGUMENT]      a config, as of `python -m lfl_jax.main`; --config.SECTION.FIELD=VALUE
                              overrides a field. Its model is cut to two layers of 64 channels, its
                              rows to 256 tokens; kinds of adapters, data, template, optimizer and
                              accumulation stay. Real weights are cut where they are here; where
                              weights, tokenizer or data are not, it says what is used instead
--workdir=DIR                 where the run will write: its disk is checked
--topology=NAME               the machine the run is for, as of `python -m lfl_jax.plan`, such as
                              v5e:4x4; its memory is checked in place of this machine's
--allow_code=FILE.py          a file with user code that the record of a run names, and that may run
--json                        everything as JSON

Checked are: resuming, packing, accumulation, several devices in any order (eight CPU devices in a
process of their own where there is one device), identity at step 0, the laws of adapters, merging,
PEFT, decoding, kernels, float32 masters, EOS and loss mask, sandbox, memory and disk. Each is
proved, failed, or not applicable, with the measured value and its bound.
Exit code 0: nothing failed; 1: something did; 2: a mistake, in one line.
"""

import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lfl_jax.config import command_line
from lfl_jax.errors import entry

FLAGS = {
    "workdir": ("", "directory of the run"),
    "topology": ("", "the machine that the run is for, such as v5e:4x4"),
    "json": (False, "everything as JSON"),
    **command_line.CODE,
}
# jax's plugins for GPUs and TPUs, whose programs are compiled as a run's are
ACCELERATORS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "libtpu")


def main(argv: Sequence[str]) -> None:
    """The command above."""
    config, options = command_line.parse(argv, __doc__, FLAGS)
    from lfl_jax.core.process import FAST_COMPILATION, keep_compiled_programs

    # Read when jax starts its first device.
    if not any(map(importlib.util.find_spec, ACCELERATORS)):
        os.environ.setdefault("XLA_FLAGS", FAST_COMPILATION)

    from rich.console import Console

    from lfl_jax import assets
    from lfl_jax.proofs import checks, reduced, show

    start = time.monotonic()
    keep_compiled_programs(assets.writable("compiled"))
    workdir = Path(options["workdir"]) if options["workdir"] else None
    with tempfile.TemporaryDirectory() as folder:
        run = reduced.prepare(config, Path(folder), workdir, options["topology"])
        done = []
        for checked in checks.check_all(run):
            done.append(checked)
            line = show.progress_line(checked, len(done), len(checks.CHECKS))
            print(line, file=sys.stderr, flush=True)
    seconds = time.monotonic() - start
    if options["json"]:
        print(json.dumps(show.as_values(run, done, seconds), indent=1))
    else:
        show.show(run, done, seconds, Console())
    sys.exit(int(any(checked.finding.failed for checked in done)))


if __name__ == "__main__":
    entry(main)
