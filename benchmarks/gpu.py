"""Everything about speed on one GPU, in one command: the low-rank projection, a training step,
decoding, the peers.

    python benchmarks/gpu.py                                  Llama-2-7B's shapes, random weights, within 9 minutes
    python benchmarks/gpu.py --only=kernels --seconds=1200    one stage (a prefix of its name), with more time
    python benchmarks/gpu.py --size=tiny --peer_python=...    the same on a CPU, to try it

Needs jax, flax, optax and jaxtyping; torch, transformers and peft for the peers (in the interpreter
--peer_python).
Nothing has to be installed: it runs from a checkout. Every stage is a process of its own, so that
memories do not collide, with a time limit; the most telling come first. Every row is in --output as
soon as it is measured, so a run that is cut short has all it measured. The JSON goes to stdout at
the end, progress and the tables to stderr. With JAX_COMPILATION_CACHE_DIR set, a second run (of
other stages, say) finds what the first one compiled.

FLOPs of a token by formula, N the parameters that are multiplied (all but the embedding): 4N where
dx is propagated through a frozen base, 6N for full finetuning; recomputation is not counted, and
reported apart. Utilisation is against the measured rate of a large bfloat16 product (mfu) and
against the data sheet (mfu_sheet).
"""

import argparse
import atexit
import contextlib
import datetime
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NamedTuple

import gpu_sizes

Row = dict[str, Any]
HERE = Path(__file__).parent
# Dense bfloat16 TFLOP/s of data sheets, by a part of the device's name.
SHEET = {
    "H200": 989.5,
    "H100": 989.5,
    "GH200": 989.5,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "B200": 2250.0,
}


class Stage(NamedTuple):
    """A stage, the script that has it, the table its rows belong to, and its limit in seconds."""

    name: str
    script: str
    table: str
    limit: float


OURS, KERNELS, PEER = "gpu_ours.py", "gpu_kernels.py", "gpu_peer.py"
# In order of value: what is first is measured even in a short lease.
STAGES = (
    Stage("ceilings", KERNELS, "ceilings", 40),
    Stage("step_lora", OURS, "steps", 160),
    Stage("peer_lora", PEER, "steps", 70),
    Stage("step_none", OURS, "steps", 100),
    Stage("step_qlora", OURS, "steps", 140),
    Stage("decode_bf16", OURS, "decode", 130),
    Stage("decode_nf4", OURS, "decode", 130),
    Stage("peer_lora_compiled", PEER, "steps", 150),
    Stage("attention", KERNELS, "attention", 50),
    Stage("kernels_xla", KERNELS, "kernels", 90),
    Stage("kernels_nf4", KERNELS, "kernels", 60),  # a kernel that fails can take its process along
    Stage("kernels_bf16", KERNELS, "kernels", 60),
    Stage("kernels_int8", KERNELS, "kernels", 60),
    Stage("peer_decode", PEER, "decode", 60),
    Stage("peer_lora_checkpointing", PEER, "steps", 60),
    Stage("step_dora", OURS, "steps", 80),
    Stage("step_full", OURS, "steps", 60),
    Stage("peer_full", PEER, "steps", 40),
    Stage("grouped", KERNELS, "grouped", 60),
    Stage("decode_stacked", OURS, "decode", 100),
    Stage("peer_lora_compiled_checkpointing", PEER, "steps", 150),
    Stage("peer_dora", PEER, "steps", 60),
    Stage("peer_full_compiled", PEER, "steps", 60),
    Stage("peer_decode_compiled", PEER, "decode", 100),
)


def main() -> None:
    """Run the stages, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=gpu_sizes.SIZES, default="7b")
    parser.add_argument(
        "--seconds", type=float, default=530, help="for everything; what does not fit is left out"
    )
    parser.add_argument("--only", default="", help="names or prefixes of stages, with commas")
    parser.add_argument(
        "--output", type=Path, default=Path("gpu.json"), help="written after every row"
    )
    parser.add_argument(
        "--peer_python",
        default=sys.executable,
        help="interpreter with torch, transformers and peft",
    )
    a = parser.parse_args()
    found = run(a, time.monotonic() + a.seconds)
    print(json.dumps(found, indent=1))
    print(tables(found), file=sys.stderr)


def run(a: argparse.Namespace, deadline: float) -> Row:
    """All chosen stages; every row is written as it comes."""
    wanted = tuple(filter(None, a.only.split(",")))
    chosen = [s for s in STAGES if not wanted or s.table == "ceilings" or s.name.startswith(wanted)]
    found: Row = {
        "benchmark": {"size": a.size, "seconds": a.seconds, "only": a.only},
        "date": _now(),
        "stages": [],
    }
    for stage in chosen:
        begun = time.monotonic()
        limit = min(stage.limit if not wanted else a.seconds, deadline - begun)
        print(f"{stage.name}: at most {limit:.0f} s", file=sys.stderr)
        ended = _stage(stage, a, limit, found) if limit > 5 else "left out: no time left"
        record = {"name": stage.name, "seconds": round(time.monotonic() - begun, 1), "ended": ended}
        found["stages"].append(record)
        print(f"{stage.name}: {ended} after {record['seconds']} s", file=sys.stderr)
        found["targets"] = targets(found)
        _write(a.output, found)
    return found


def _stage(stage: Stage, a: argparse.Namespace, limit: float, found: Row) -> str:
    """Run a stage in its process until its end or its limit; says how it ended."""
    python = a.peer_python if stage.script == PEER else sys.executable
    process = subprocess.Popen(
        [python, HERE / stage.script, stage.name, f"--size={a.size}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=_environment(), process_group=0,
    )  # fmt: skip
    lines: Queue[Row | None] = Queue()
    errors: list[str] = []
    readers = (
        threading.Thread(target=_read_rows, args=(process.stdout, lines), daemon=True),
        threading.Thread(target=_read_errors, args=(process.stderr, errors), daemon=True),
    )
    for reader in readers:
        reader.start()
    deadline = time.monotonic() + limit
    try:
        while (row := lines.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
            found.setdefault(stage.table, []).append(derived(row, stage.table, found))
            print(f"  {_brief(found[stage.table][-1])}", file=sys.stderr)
            _write(a.output, found)
        code = process.wait(timeout=max(1.0, deadline - time.monotonic()))
    except (Empty, subprocess.TimeoutExpired):
        code = None
    finally:
        _end(process)
    for reader, stream in zip(readers, (process.stdout, process.stderr), strict=True):
        reader.join(timeout=10)
        if not reader.is_alive():  # else a child of the stage still holds it open
            stream.close()
    if code is None:
        return f"cut at its limit of {limit:.0f} s"
    return "done" if code == 0 else f"failed ({code}): " + " | ".join(errors[-4:])[-1500:]


def _end(process: subprocess.Popen) -> None:
    """Nothing of a stage may outlive it, such as torch.compile's workers: the next one needs the
    device's memory."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read_rows(stream: Any, lines: Queue) -> None:
    for line in stream:
        with contextlib.suppress(json.JSONDecodeError):  # a library may print, too
            if line.startswith("{"):
                lines.put(json.loads(line))
    lines.put(None)


def _read_errors(stream: Any, errors: list[str]) -> None:
    for line in stream:
        errors.append(line.strip())
        del errors[:-20]
        if line.startswith("  "):  # our own progress
            print(line, end="", file=sys.stderr)


@functools.cache
def _environment() -> dict[str, str]:
    """The checkout's package first; jax may take nearly all of the memory, and what one stage found
    out about the fastest matrix products serves the next; torch grows its blocks in place."""
    cache = tempfile.mkdtemp(prefix="gpu_benchmark_")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    defaults = {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    defaults |= {"JAX_COMPILATION_CACHE_DIR": cache}
    return defaults | dict(os.environ) | {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}


def derived(row: Row, table: str, found: Row) -> Row:
    """The row with what follows from it: rates, utilisation, ratios to the rows it is measured
    against."""
    if "error" in row or table == "ceilings":
        return row
    top = (found.get("ceilings") or [{}])[0]
    return row | DERIVED[table](row, top, found)


def _step(row: Row, top: Row, found: Row) -> Row:
    rate = row["batch"] * row["tokens"] / row["step_s"]
    tflops = rate * row["flops_per_token"] / 1e12
    sheet = next((x for name, x in SHEET.items() if name in top.get("device", "")), None)
    computed = tflops * (1 + row["recomputed_per_token"] / row["flops_per_token"])
    rates = {"tokens_per_s": rate, "tflops": tflops, "tflops_with_recomputation": computed}
    return rates | {"mfu": _over(tflops, top.get("tflops")), "mfu_sheet": _over(tflops, sheet)}


def _over(value: float | None, of: float | None) -> float | None:
    return value / of if value and of else None


def _kernel(row: Row, top: Row, found: Row) -> Row:
    same = ("m", "i", "o", "weights", "pass")
    beside = {
        r["what"]: r for r in found.get("kernels", ())
        if "us" in r and all(r[k] == row[k] for k in same) and (r["what"] == "xw" or r["r"] == row["r"])
    }  # fmt: skip
    of = {f"of_{name}": row["us"] / beside[name]["us"] for name in ("xw", "xla") if name in beside}
    return of | {
        f"{rate}_of_ceiling": row[rate] / top[rate] for rate in ("tflops", "gbps") if rate in top
    }


def _grouped(row: Row, top: Row, found: Row) -> Row:
    same = [
        r
        for r in found.get("grouped", ())
        if "us" in r and all(r[k] == row[k] for k in ("members", "pass"))
    ]
    return {f"of_{r['what']}": row["us"] / r["us"] for r in same}


def _nothing(row: Row, top: Row, found: Row) -> Row:
    return {}


DERIVED = {
    "steps": _step,
    "kernels": _kernel,
    "grouped": _grouped,
    "decode": _nothing,
    "attention": _nothing,
}


def targets(found: Row) -> Row:
    """What this benchmark was written to decide, as far as it was measured."""

    def best(table: str, rate: str, **wanted: Any) -> float | None:
        rows = [r for r in found.get(table, ()) if all(r.get(k) == v for k, v in wanted.items())]
        return max((r[rate] for r in rows if r.get(rate)), default=None)

    step = {
        name: best("steps", "tokens_per_s", framework="lfl_jax", what=name)
        for name in ("lora", "none", "qlora")
    }
    one = {
        name: best("decode", "tokens_per_s", framework="lfl_jax", what=name, rows=1)
        for name in ("nf4", "bfloat16")
    }
    return {
        "LoRA step, mfu": best("steps", "mfu", framework="lfl_jax", what="lora"),
        "LoRA step, tokens/s over peft's best": _over(
            step["lora"], best("steps", "tokens_per_s", framework="peft", what="lora")
        ),
        "QLoRA step, tokens/s over LoRA's": _over(step["qlora"], step["lora"]),
        "NF4 decoding of 1 row, tokens/s over bfloat16's": _over(one["nf4"], one["bfloat16"]),
        "LoRA step, time over no adapter's": _over(step["none"], step["lora"]),
    }


# Columns of the tables; a row that failed shows its error.
COLUMNS = {
    "ceilings": ("device", "tflops", "gbps"),
    "steps": ("framework", "what", "compiled", "remat", "batch", "tokens", "step_s", "tokens_per_s", "mfu", "mfu_sheet",
              "tflops_with_recomputation", "program_bytes", "peak_bytes", "loss"),
    "decode": ("framework", "what", "compiled", "rows", "ms_per_token", "tokens_per_s", "first_32_ms", "peak_bytes"),
    "kernels": ("what", "weights", "pass", "m", "i", "o", "r", "us", "tflops", "gbps", "tflops_of_ceiling",
                "gbps_of_ceiling", "of_xw", "of_xla"),
    "attention": ("what", "chosen", "pass", "batch", "tokens", "heads", "width", "us", "tflops", "distance"),
    "grouped": ("what", "pass", "members", "n", "i", "o", "r", "us", "of_routed"),
}  # fmt: skip


def tables(found: Row) -> str:
    """The rows for a reader."""
    text = []
    for table, columns in COLUMNS.items():
        rows = [
            [_cell(row.get(c)) for c in columns] + [row.get("error", "")]
            for row in found.get(table, ())
        ]
        if rows:
            widths = [
                max(len(x) for x in column)
                for column in zip(columns, *(r[:-1] for r in rows), strict=True)
            ]
            lines = ([*columns, ""], *rows)
            text.append(f"\n{table}")
            text += [
                "  ".join(x.rjust(w) for x, w in zip(r, [*widths, 0], strict=True)).rstrip()
                for r in lines
            ]
    text += [
        "",
        *(f"{name}: {_cell(x)}" for name, x in found.get("targets", {}).items() if x is not None),
    ]
    return "\n".join(text)


def _cell(x: Any) -> str:
    if isinstance(x, float):
        return f"{x:.4g}" if abs(x) < 1e6 else f"{x:.3e}"
    return (
        "" if x is None else f"{x / 2**30:.1f}Gi" if isinstance(x, int) and x > 1 << 26 else str(x)
    )


def _brief(row: Row) -> str:
    return " ".join(
        f"{k}={_cell(v)}" for k, v in row.items() if isinstance(v, (str, int, float)) and v != ""
    )


def _write(path: Path, found: Row) -> None:
    whole = path.with_suffix(".part")
    whole.write_text(json.dumps(found, indent=1) + "\n")
    whole.replace(path)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    main()
