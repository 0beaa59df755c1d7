"""Plan a run before it is started: whether it fits a machine, how long it takes, what it costs.

    python -m lfl_jax.plan --config=configs/math_ift.py:paper --topology=v5e:4x4

--config=FILE[:ARGUMENT]      a config, as of `python -m lfl_jax.main`; --config.SECTION.FIELD=VALUE
                              overrides a field. No weights and no data are needed
--topology=NAME               v5e:4x4, v5p:4x4x4, v6e:16x16 (TPU slices; another number behind it:
                              several slices), h100:8, a100-80gb:8, h200:1 (GPUs of a node; h100:8x4
                              is four nodes), or cpu:1: this machine, measured in 10 s
--search                      rank mesh, rows of a microbatch and remat that fit, by a step's time
--compile                     beside the plan, what XLA says: the training step is compiled for the
                              machine (not run; minutes), for TPUs by libtpu (extra tpu), for GPUs
                              by jax's CUDA plugin (extra cuda12)
--price=PER_CHIP_HOUR         the run's cost, in its unit
--peaks=FILE                  cpu:1 with the figures of this file, which is written if it is not
                              there, in place of a new measurement
--json                        everything as JSON

Memory is by term: what a step is given, from the shapes and shardings of the run, and what it needs
beside that. Times are bands: what the published peaks allow, and a third of that.
Exit code 0 whether or not it fits (--json has "fits"); 2: a mistake, in one line.
"""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lfl_jax.config import command_line
from lfl_jax.errors import UserError, entry

if TYPE_CHECKING:
    from lfl_jax.config import Config
    from lfl_jax.planning.plan import Plan
    from lfl_jax.planning.topology import Topology

FLAGS = {
    "topology": ("", "the machine, such as v5e:4x4"),
    "search": (False, "rank what fits"),
    "compile": (False, "beside the plan, what XLA says"),
    "price": (0.0, "of a chip for an hour"),
    "peaks": ("", "file with a CPU's measured peaks"),
    "json": (False, "everything as JSON"),
    **command_line.CODE,
}


def main(argv: Sequence[str]) -> None:
    """The command above."""
    config, options = command_line.parse(argv, __doc__, FLAGS)

    import jax

    # Shapes need no accelerator, and none must be held while it is planned for.
    jax.config.update("jax_platforms", "cpu")
    from rich.console import Console

    from lfl_jax.planning import plan, show, topology

    # what a person forgot is said before anything is computed
    if not options["topology"]:
        raise UserError(f"no --topology given; there are: {topology.listed()}")
    if options["price"] < 0:
        raise UserError(f"--price={options['price']:g} must not be negative")
    cpu = None
    if options["topology"].partition(":")[0] == topology.CPU:
        from lfl_jax.planning import cpu_probe

        cpu = cpu_probe.read_or_measure(options["peaks"], config)
    machine = topology.parse(options["topology"], cpu)
    if options["search"] and options["compile"]:
        raise UserError("--search and --compile: give one; what a search finds can be compiled")
    if options["search"]:
        _search(config, machine, options["json"])
        return
    planned = plan.of(config, machine)
    values = plan.as_json(planned, options["price"])
    lines: list[str] = []
    if options["compile"]:
        # before the plan is shown: a compiler that is missing is said at once
        values["xla"], lines = _compiled(planned)
    if options["json"]:
        print(json.dumps(values, indent=1))
        return
    show.show(planned, options["price"], Console())
    print(*lines, sep="\n", end="\n" if lines else "")


def _search(config: "Config", machine: "Topology", as_json: bool) -> None:
    """Print what fits the machine, the fastest first."""
    from rich.console import Console

    from lfl_jax.planning import search, show

    ranking = search.ranked(config, machine)
    if not as_json:
        show.show_search(ranking, machine.name, Console())
        return
    rows = [
        {
            "flags": candidate.flags,
            "bytes": candidate.memory.peak,
            "step_seconds": [candidate.time.total.fast, candidate.time.total.slow],
        }
        for candidate in ranking
    ]
    print(json.dumps(rows, indent=1))


def _compiled(planned: "Plan") -> tuple[dict, list[str]]:
    """What XLA says of the plan's step, as plain values, and in lines beside the plan."""
    # with the whole training step, which a plan alone does not need
    from lfl_jax.core.sharding import make_rules
    from lfl_jax.planning import comparison, compiled

    mesh, machine = planned.layout.mesh, planned.topology
    rules = make_rules(mesh.data, mesh.fsdp, mesh.tensor, devices=compiled.devices(machine))
    print(f"compiling for {machine.name}: this takes minutes", file=sys.stderr)
    step = compiled.compile_step(planned.layout.config, rules, machine)
    return compiled.as_json(step), ["", *comparison.lines(planned, step)]


if __name__ == "__main__":
    entry(main)
