"""Read mutated files one after another in this process, and say what came of each.

    python tests/fuzzing/worker.py READER SEED FIRST LAST [--verbose]

A line of JSON before each case and one after it, so that whoever started this process knows which
case it did not survive.
"""

import json
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ["RUST_BACKTRACE"] = "0"

from fuzzing import of_data, of_models, of_runs, of_text
from fuzzing.mutations import generator
from lfl_jax.errors import UserError, printable

READERS = of_models.READERS | of_text.READERS | of_data.READERS | of_runs.READERS
MEMORY = 1 << 30  # bytes that reading one file may take
MACHINE = 6 << 30  # bytes of address space beyond which this process ends, for the machine's sake


def main(reader, seed, first, last, verbose=False):
    out = os.fdopen(os.dup(1), "w", buffering=1)
    words = open(os.environ.get("LFL_FUZZ_WORDS", os.devnull), "w+b")  # noqa: SIM115
    if not verbose:
        os.dup2(words.fileno(), 1)
        os.dup2(words.fileno(), 2)
    warnings.simplefilter("error")
    # NumPy's of numbers that are not finite: scores of such records are NaN, and shown as that.
    warnings.simplefilter("ignore", RuntimeWarning)
    # Once whole: what is compiled and imported then belongs to no case.
    with tempfile.TemporaryDirectory() as folder:
        READERS[reader].write(None, Path(folder))
        value = READERS[reader].read(Path(folder))
        wrong = READERS[reader].wrong(value, Path(folder))
        assert not wrong, f"{reader}: the whole file: {wrong}"
        assert getattr(value, "refused", None) is None, f"{reader}: {value.refused}"
    limit = _memory("VmSize") + MACHINE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for case in range(first, last):
        print(json.dumps({"begin": case}), file=out)
        begun = os.lseek(words.fileno(), 0, os.SEEK_END)
        result = _one(READERS[reader], generator(seed, reader, case), verbose)
        said = os.pread(words.fileno(), 400, begun).decode("utf-8", "replace")
        # Lines for the person, such as the summary of an adapter, are no noise, and neither is a
        # library's warning of a file that is read.
        words_of = {
            "read": r"panicked|Traceback",
            "refused": r"panicked|Traceback|Error|\.cc:|\.rs:",
        }
        noise = re.search(words_of.get(result["outcome"], "$^"), said)
        if noise and result["outcome"] != "fault":
            result |= {"outcome": "fault", "what": f"native words: {said[:300]}"}
        print(json.dumps({"case": case} | result), file=out)


def _one(reader, rng, verbose):
    folder = Path(tempfile.mkdtemp())
    try:
        try:
            reader.write(rng, folder)
        except Exception as error:  # a mistake of the fuzzer's own
            raise SystemExit(f"cannot write the file: {error!r}") from error
        _forget_peak()
        before, begun = _memory("VmRSS"), time.monotonic()
        outcome, what = _outcome(reader, folder, verbose)
        taken, memory = time.monotonic() - begun, _memory("VmHWM") - before
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if memory > MEMORY:
        outcome, what = "fault", f"memory: {memory >> 20} MiB; {what}"
    return {"outcome": outcome, "what": what, "seconds": round(taken, 3), "mib": memory >> 20}


def _outcome(reader, folder, verbose):
    try:
        value = reader.read(folder)
        wrong = reader.wrong(value, folder)
        if getattr(value, "refused", None) is not None:
            raise value.refused
    except UserError as error:
        text = str(error)
        if len(text.splitlines()) > 20 or len(text) > 2500:
            return "fault", f"long error: {len(text)} characters: {text[:80]}"
        return "refused", re.sub(r"/tmp/\w+", "", printable(text))[:120]
    except BaseException as error:
        if verbose:
            traceback.print_exc()
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "/lfl_jax/" in frame.filename] or frames
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
        return "fault", f"{type(error).__name__} at {place}: {str(error)[:120]}"
    return ("fault", f"silent: {wrong}") if wrong else ("read", "")


def _memory(field):
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", text)[1]) << 10


def _forget_peak():
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    name, *numbers = [word for word in sys.argv[1:] if word != "--verbose"]
    main(name, *map(int, numbers), verbose="--verbose" in sys.argv)
