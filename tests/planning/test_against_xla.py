"""The plan against XLA's own figures of the same steps, as `benchmarks/plan_compiled.py` wrote them."""

import json
from pathlib import Path

import pytest

from lfl_jax.config import command_line
from lfl_jax.planning import compute, layout, memory, plan, topology

RESULTS = Path(__file__).parents[2] / "results" / "plan_compiled"
FILES = sorted(RESULTS.glob("*.json"))


def planned(measured):
    """(memory, bytes sent in collectives) of a case."""
    config = command_line.parse(["plan", *measured["flags"]], "", {})[0]
    machine = topology.parse(measured["topology"])
    mesh, _ = plan.mesh_of(config, machine)
    of = layout.of(config, mesh)
    return memory.of(of, machine), sum(each.bytes for each in compute.collectives(of))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_plan_is_near_what_xla_says(file):
    measured = json.loads(file.read_text())
    taken, sent = planned(measured)
    # the step alone: XLA was given no evaluations
    assert (taken.training <= taken.available) == measured["fits"]
    if not measured["fits"]:
        assert taken.training == pytest.approx(measured["overflow"]["needed"], rel=0.1)
        return
    sizes = measured["bytes"]
    assert sum(taken.arguments.values()) == pytest.approx(sizes["arguments"], rel=0.001)
    assert sum(taken.temporaries.values()) == pytest.approx(sizes["live"], rel=0.1)
    assert sent == pytest.approx(sum(each["sent"] for each in measured["collectives"]), rel=0.2)


def test_there_is_something_to_compare_with():
    assert len(FILES) >= 8
