"""Compiling for hardware that is not here: what is missing, what does not fit, and a whole step."""

import importlib.util
import json
import subprocess
import sys

import jax
import pytest

from lfl_jax import plan as command
from lfl_jax.core import sharding
from lfl_jax.errors import UserError
from lfl_jax.planning import compiled
from lfl_jax.planning.compiled import CompiledStep, Memory, Overflow
from lfl_jax.planning.hlo import Collective
from lfl_jax.planning.topology import parse

GIB = 2**30


@pytest.mark.parametrize(
    ("topology", "package", "extra"),
    [("v5e:4x4", "libtpu", "tpu"), ("h100:8", "jax_cuda12_plugin", "cuda12")],
)
def test_a_missing_compiler_is_said_with_what_installs_it(topology, package, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{package}.*pip install 'lfl_jax\[{extra}\]'"):
        compiled.devices(parse(topology))


def test_libtpus_words_for_too_large_are_an_answer():
    early = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO"
        " temporaries (40.00G) exceeds available HBM (15.75G)."
    )
    late = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space"
        " hbm. Used 21.64G of 15.48G hbm. Exceeded hbm capacity by 6.16G."
    )
    assert compiled.overflow_of(early) == Overflow(40 * GIB, round(15.75 * GIB))
    assert str(compiled.overflow_of(late)) == (
        "does not fit, 6.16 GiB over: XLA needs 21.64 GiB of 15.48 GiB"
    )


def test_other_errors_of_a_compiler_stay_errors():
    """A kernel that wants too much of a core's own memory is a fault of the kernel."""
    kernel = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20.25M of 16.00M vmem."
    )
    assert compiled.overflow_of(kernel) is None
    assert compiled.overflow_of("INTERNAL: Mosaic failed to compile") is None


def test_a_program_for_a_gpu_that_is_too_large_does_not_fit():
    memory = Memory(
        arguments=60 * GIB,
        outputs=10 * GIB,
        aliased=9 * GIB,
        temporaries=30 * GIB,
        code=0,
        peak=91 * GIB,
    )
    assert compiled._too_large(memory, parse("h200:1")) is None
    overflow = compiled._too_large(memory, parse("h100:8"))
    assert overflow.needed == 91 * GIB and "does not fit" in str(overflow)


STEP = CompiledStep(
    Memory(arguments=GIB, outputs=0, aliased=0, temporaries=0, code=GIB // 4, peak=3 * GIB),
    None,
    (
        Collective("all-gather", "bf16", 16, 96, 16 * GIB, False),
        Collective("all-reduce", "f32", 16, 1, 4, False),
    ),
    61.0,
    {"jax": "0.10.2"},
)
COMMAND = ["plan", "--config=configs/math_ift.py:smoke,lora,r=4", "--topology=v5e:2x2", "--compile"]
ROWS = "--config.train.batch=4"


def compiling(monkeypatch, step):
    """The compiler, standing in: it says that a step is this one."""
    monkeypatch.setattr(compiled, "devices", lambda machine: jax.devices()[:1] * machine.chips)
    monkeypatch.setattr(sharding, "make_rules", lambda *sizes, devices: (sizes, len(devices)))
    asked = []

    def compile_step(config, rules, machine):
        asked.append((config.train.batch, rules, machine.name))
        return step

    monkeypatch.setattr(compiled, "compile_step", compile_step)
    return asked


def test_what_xla_says_is_printed_beside_the_plan(monkeypatch, capsys):
    asked = compiling(monkeypatch, STEP)
    command.main([*COMMAND, ROWS])
    shown = capsys.readouterr()
    assert asked == [(4, ((1, 4, 1), 4), "v5e:2x2")]
    assert "compiling for v5e:2x2: this takes minutes" in shown.err
    for words in ("largest term", "in 61 s, not run", "plan: a step fits; XLA: fits"):
        assert words in shown.out
    compared = shown.out.partition("not run")[2].splitlines()
    rows = {
        line.rsplit(maxsplit=3)[0].strip(): line.split()[-2:] for line in compared if "%" in line
    }
    assert rows["temporaries"] == ["2.00", "-100%"] and rows["training, at most"][0] == "3.25"
    assert "all-gather of bf16 over 16 devices: 96 times, 15.00 GiB sent by a device" in shown.out
    # too small to matter
    assert "all-reduce of f32" not in shown.out


def test_a_step_that_xla_refuses_is_an_answer(monkeypatch, capsys):
    compiling(monkeypatch, CompiledStep(None, Overflow(20 * GIB, 16 * GIB), (), 5.0, {}))
    command.main([*COMMAND, ROWS])
    assert "XLA: does not fit, 4.00 GiB over" in capsys.readouterr().out
    command.main([*COMMAND, ROWS, "--json"])
    values = json.loads(capsys.readouterr().out)["xla"]
    assert not values["fits"] and values["overflow"]["needed"] == 20 * GIB


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--topology=v5e:2x2", "--search"), "give one"),
        (("--topology=v5e:2x2x2", ROWS + "0"), "one slice or node"),
    ],
)
def test_what_cannot_be_compiled_is_said(flags, said):
    with pytest.raises(UserError, match=said):
        command.main([*COMMAND[:2], "--compile", *flags])


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "h100:4"])
def test_a_small_step_is_compiled_for_devices_that_are_not_here(topology):
    packages, _ = compiled.COMPILERS["gpu" if topology.startswith("h") else "tpu"]
    if not any(map(importlib.util.find_spec, packages)):
        pytest.skip(f"compiling for {topology} needs {packages[0]}")
    flags = ("--config.train.batch=8", "--config.train.microbatch=4", "--config.data.seq_len=128")
    where = [f"--topology={topology}", "--compile", "--json"]
    # in a process of its own: types are not checked there at run time, and jax puts descriptions in
    # place of a state's arrays
    argv = [sys.executable, "-m", "lfl_jax.plan", COMMAND[1], *flags, *where]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    xla = json.loads(done.stdout)["xla"]
    assert xla["fits"] and xla["bytes"]["aliased"] > 0 and xla["bytes"]["live"] > 0
    # the weights of two layers in two microbatches, from all four devices
    gathered = [c for c in xla["collectives"] if c["kind"] == "all-gather"]
    assert {c["devices"] for c in gathered} == {4} and sum(c["times"] for c in gathered) >= 4
