"""Mutated files of every reader, read by workers under limits of time and memory; what came of them.

    python tests/fuzzing/driver.py --cases=20000 [--seed=0] [--out=FILE.json] [--reader=NAME ...]
    python tests/fuzzing/driver.py --reader=gguf --case=123

A case is read by nobody else: the same numbers make the same files. Exit code 1 where there was a
fault: an error that is no UserError, more than 10 s, more than 1 GiB, a native message, or a value
that cannot be right.
"""

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

SECONDS = 10.0  # that reading one file may take
GRACE = 20.0  # for writing a file, on a busy machine
START = 300.0  # that a worker may take to import everything, on a busy machine
BATCH = 1000  # files for one process
WORKER = Path(__file__).with_name("worker.py")


def shares():
    """{reader: its share of the cases}."""
    from fuzzing.worker import READERS

    total = sum(reader.share for reader in READERS.values())
    return {name: reader.share / total for name, reader in READERS.items()}


def run(reader, seed, first, last, tell=lambda result: None):
    """The results of cases first..last - 1: {"case", "outcome", "what", "seconds", "mib"}."""
    results = []
    while first < last:
        results += _worker(reader, seed, first, min(first + BATCH, last), tell)
        first = results[-1]["case"] + 1
    return results


def _worker(reader, seed, first, last, tell):
    """Results up to the last case, or up to one that the worker did not survive."""
    command = [sys.executable, str(WORKER), reader, *map(str, (seed, first, last))]
    results, begun = [], None
    words = tempfile.NamedTemporaryFile()  # noqa: SIM115 (read when the process is gone)
    environment = os.environ | {"LFL_FUZZ_WORDS": words.name}
    with (
        words,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        ) as process,
    ):
        try:
            for line in _lines(process.stdout):
                if line is None:
                    results.append(_fault(begun, f"time: more than {SECONDS:g} s"))
                    break
                record = json.loads(line)
                if "begin" in record:
                    begun = record["begin"]
                    continue
                if record["seconds"] > SECONDS and record["outcome"] != "fault":
                    record |= {"outcome": "fault", "what": f"time: {record['seconds']} s"}
                results.append(record)
                tell(record)
        finally:
            process.kill()
        said = (process.stderr.read() + words.read()).decode("utf-8", "replace")
    if begun is None:
        raise RuntimeError(f"{reader}: no worker starts: {said[-2000:]}")
    if not results or results[-1]["case"] != begun:
        results.append(_fault(begun, f"the process died: {said[-300:]}"))
    if results[-1]["outcome"] == "fault":
        tell(results[-1])
    return results


def _fault(case, what):
    return {"case": case, "outcome": "fault", "what": what, "seconds": SECONDS, "mib": 0}


def _lines(pipe):
    """Lines as they come; None where the next one does not come in time."""
    rest, patience = b"", START
    while True:
        ready, _, _ = select.select([pipe], [], [], patience)
        patience = SECONDS + GRACE
        if not ready:
            yield None
            return
        data = os.read(pipe.fileno(), 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def summary(results_by_reader):
    """{reader: counts of outcomes, longest time, largest memory}."""
    table = {}
    for reader, results in results_by_reader.items():
        counts = Counter(result["outcome"] for result in results)
        table[reader] = {
            "files": len(results),
            "read": counts["read"],
            "refused": counts["refused"],
            "faults": counts["fault"],
            "slowest_s": max(result["seconds"] for result in results),
            "most_mib": max(result["mib"] for result in results),
        }
    return table


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", default=[])
    parser.add_argument("--case", type=int)
    parser.add_argument("--out")
    arguments = parser.parse_args(argv)
    if arguments.case is not None:
        numbers = map(str, (arguments.seed, arguments.case, arguments.case + 1))
        command = [sys.executable, str(WORKER), arguments.reader[0], *numbers, "--verbose"]
        return subprocess.run(command).returncode

    results, begun, kinds = {}, time.monotonic(), defaultdict(list)
    for reader, share in shares().items():
        if arguments.reader and reader not in arguments.reader:
            continue
        count = arguments.cases if arguments.reader else round(arguments.cases * share)
        results[reader] = run(reader, arguments.seed, 0, count)
        print(reader, json.dumps(summary({reader: results[reader]})[reader]), flush=True)
        for result in results[reader]:
            if result["outcome"] == "fault":
                kinds[reader, result["what"][:60]].append(result)
        for (name, kind), faults in kinds.items():
            if name == reader:
                print(f"    {len(faults)} x {kind} (case {faults[0]['case']})", flush=True)
    table = summary(results)
    faults = sum(row["faults"] for row in table.values())
    files = sum(row["files"] for row in table.values())
    print(f"{files} files, {faults} faults, {time.monotonic() - begun:.0f} s")
    if arguments.out:
        content = {"seed": arguments.seed, "files": files, "faults": faults, "readers": table}
        Path(arguments.out).write_text(json.dumps(content, indent=1) + "\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
