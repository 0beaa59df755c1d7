"""XLA's own memory and collectives of training steps, for hardware that is not here.

    python benchmarks/plan_compiled.py --case=v5e_lora --out=results/plan_compiled
    python benchmarks/plan_compiled.py --table

A case is the config of the paper for Llama-2-7B (70B on v5p) with rows of 1024 tokens and as many rows
a microbatch as `CASES` says. It is compiled as `python -m lfl_jax.plan --compile` does: by libtpu
(extra tpu), or by jax's CUDA plugin (extra cuda12); nothing is run. It takes minutes, and GiB of memory.
--dump=DIR keeps XLA's own reports (live ranges, buffers, HLO). --table sets the files beside the plan.
"""

import argparse
import dataclasses
import datetime
import json
import sys
from pathlib import Path

import jax

from lfl_jax.config import Config, command_line
from lfl_jax.core.sharding import make_rules
from lfl_jax.planning import compiled, topology

RESULTS = Path(__file__).parents[1] / "results" / "plan_compiled"


@dataclasses.dataclass(frozen=True)
class Case:
    """mesh: devices along data, fsdp and tensor. rows: of a microbatch, over all devices."""

    topology: str
    words: str
    mesh: tuple[int, int, int]
    rows: int
    model: str = "llama2-7b"

    @property
    def flags(self) -> list[str]:
        """What a command of this package is told of it."""
        sizes = zip(("data", "fsdp", "tensor"), self.mesh, strict=True)
        return [
            f"--config=configs/math_ift.py:{self.words}",
            f"--config.train.microbatch={self.rows}",
            f"--config.model.name={self.model}",
            *(f"--config.mesh.{axis}={size}" for axis, size in sizes),
        ]

    def config(self) -> Config:
        """The config that the flags name."""
        return command_line.parse(["plan", *self.flags], "", {})[0]


CASES = {
    "v5e_lora": Case("v5e:4x4", "paper", (1, 16, 1), 16),
    "v5e_qlora": Case("v5e:4x4", "paper,qlora", (1, 16, 1), 16),
    "v5e_full": Case("v5e:4x4", "paper,full", (1, 16, 1), 16),
    # too large: all rows of a step at once
    "v5e_full_too_large": Case("v5e:4x4", "paper,full", (1, 16, 1), 768),
    "v5p_lora_70b": Case("v5p:4x4x4", "paper", (1, 16, 4), 16, "llama2-70b"),
    "h200_lora": Case("h200:1", "paper", (1, 1, 1), 8),
    "h200_qlora": Case("h200:1", "paper,qlora", (1, 1, 1), 8),
    "h100x8_lora": Case("h100:8", "paper", (1, 8, 1), 16),
    "h100x8_qlora": Case("h100:8", "paper,qlora", (1, 8, 1), 16),
    "h100x8_full": Case("h100:8", "paper,full", (1, 8, 1), 16),
}


def measure(name: str, dump: str) -> dict:
    """A case, compiled."""
    case = CASES[name]
    options = {"xla_dump_to": dump, "xla_dump_hlo_as_text": True} if dump else None
    machine = topology.parse(case.topology)
    rules = make_rules(*case.mesh, devices=compiled.devices(machine))
    step = compiled.compile_step(case.config(), rules, machine, options)
    return {
        "command": f"benchmarks/plan_compiled.py --case={name}",
        "date": datetime.date.today().isoformat(),
        "topology": case.topology,
        "flags": case.flags,
        **compiled.as_json(step),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=list(CASES))
    parser.add_argument("--out", help="folder for CASE.json; without it, the JSON is printed")
    parser.add_argument("--dump", default="", help="folder for XLA's own reports")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    text = json.dumps(measure(arguments.case, arguments.dump), indent=1) + "\n"
    if arguments.out:
        Path(arguments.out).mkdir(parents=True, exist_ok=True)
        (Path(arguments.out) / f"{arguments.case}.json").write_text(text)
    sys.stdout.write(text)
