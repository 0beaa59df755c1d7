"""Where the time of a program goes, by named scope: a training step or a round of decoding.

    python benchmarks/scopes.py --what=step --kind=lora --loss=all
    python benchmarks/scopes.py --what=decode --batch=8

SmolLM2-135M's shape, float32, random weights. jax's profiler times every operation of the compiled
program; an operation belongs to the innermost scope of `jax.named_scope` in its path, and to the
forward pass, the backward pass, or what the backward pass computes again. Times are those of the
threads that run operations, of which two may run at once: shares are what to read. Operations that
the compiler made by itself, such as the zeros that a scan's outputs start from, have no scope.
"""

import argparse
import collections
import importlib
import json
import re
import tempfile
from pathlib import Path

import decode
import jax
import train_step
from jax.profiler import ProfileData

SCOPES = [
    "embed",
    "attention",
    "mlp",
    "adapters",
    "final_norm",
    "head",
    "loss",
    "optimizer",
    "norms",
]
REPEATS = 3
# Operations that run others.
CONTAINERS = re.compile(r"(while|call|conditional)[.\d]*$")


def main() -> None:
    """Print shares by scope as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=("step", "decode"), default="step")
    parser.add_argument("--kind", default="lora", help="of the step: an adapter's kind, or full")
    parser.add_argument("--loss", choices=("half", "all"), default="all", help="tokens in the loss")
    parser.add_argument("--batch", type=int, default=1, help="rows")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a row, or of a prompt")
    a = parser.parse_args()
    if a.what == "step":
        a.remat = "selective"
        measure, text = observed("lfl_jax.train_step", "train_step", train_step.ours, a)
    else:
        a.shared, a.new = 0, 32
        measure, text = observed("lfl_jax.sample", "_round", decode.ours, a)
    shares, seconds = by_scope(measure, text)
    print(json.dumps({"benchmark": vars(a), "seconds": seconds, "shares": shares}, indent=1))


def observed(module: str, name: str, prepare, a: argparse.Namespace):
    """The benchmark's measurement, and the text of the program that `module.name` compiles in it."""
    place = importlib.import_module(module)
    function, texts = getattr(place, name), []

    def compiled_once(*inputs, **options):
        if not texts:
            texts.append(function.lower(*inputs, **options).compile().as_text())
        return function(*inputs, **options)

    setattr(place, name, compiled_once)
    measure, _ = prepare(a)
    for _ in range(2):
        measure()
    return measure, texts[0]


def by_scope(measure, text: str) -> tuple[dict[str, float], float]:
    """Shares of the time of all operations by (pass, scope), largest first, and the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(REPEATS):
                measure()
        file = next(Path(folder).rglob("*.xplane.pb"))
        profile = ProfileData.from_file(str(file))

    paths, totals = scopes_of(text), collections.Counter()
    module = re.match(r"HloModule (\w+)", text)[1]
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                is_ours = dict(event.stats).get("hlo_module") == module
                if is_ours and not CONTAINERS.match(event.name):
                    totals[paths.get(event.name, "no scope")] += event.duration_ns
    whole = sum(totals.values())
    shares = {scope: round(t / whole, 4) for scope, t in totals.most_common()}
    return shares, whole / 1e9 / REPEATS


def scopes_of(text: str) -> dict[str, str]:
    """The scope of every operation of a compiled program."""
    scopes = {}
    for line in text.splitlines():
        found = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = .*metadata=\{.*?op_name=\"([^\"]*)\"", line)
        if found:
            scopes[found[1]] = scope(found[2])
    return scopes


def scope(path: str) -> str:
    """Such as "backward mlp" for jit(f)/transpose(jvp(forward))/while/body/mlp/dot_general."""
    # what is computed again is on a path of the backward pass, too
    direction = "backward " if "transpose(" in path else ""
    direction = "again " if "rematted" in path else direction
    inner = [part for part in re.split(r"[/()]", path) if part in SCOPES]
    return direction + inner[-1] if inner else "no scope"


if __name__ == "__main__":
    main()
