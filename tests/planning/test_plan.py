"""Plans by hand: what a config takes on a machine that is not here."""

import dataclasses
import json
import subprocess
import sys

import pytest

from lfl_jax import plan as command
from lfl_jax.config import command_line
from lfl_jax.core import spec
from lfl_jax.errors import UserError
from lfl_jax.models import llama
from lfl_jax.models.presets import PRESETS
from lfl_jax.planning import compute, layout, length, memory, plan, search, timing, topology
from lfl_jax.planning.layout import MeshShape
from lfl_jax.planning.topology import Chip

ONE = MeshShape(1, 1, 1)


def config(words, *flags):
    argv = ["plan", f"--config=configs/math_ift.py:{words}", *flags]
    return command_line.parse(argv, "", {})[0]


def layout_of(words, *flags, mesh=ONE):
    return layout.of(config(words, *flags), mesh)


# ---- topologies


def test_topologies_by_name():
    slice_, nodes = topology.parse("v5e:4x4"), topology.parse("h100:8x4")
    assert (slice_.chips, slice_.group, slice_.chip.hbm_bytes) == (16, 16, 16 * 2**30)
    assert (nodes.chips, nodes.group, nodes.groups) == (32, 8, 4)
    assert topology.parse("v5p:4x4x4").chips == 64 and topology.parse("h200").chips == 1
    assert topology.parse("v5e:16x16x16").groups == 16


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e-16", "no topology 'v5e-16'; there are: v5e:4x4, v5p:4x4x4, v6e:4x4, a100-40gb:8"),
        ("v5e:16", "v5e:16: v5e is written as v5e:4x4, two slices"),
        ("v5e:32x16", "the largest slice of v5e has 256 chips; several are v5e:4x4x2"),
        ("h100:16", "the largest node of h100 has 8 chips"),
        ("h100:eight", "h100 is written as h100:8, two nodes as h100:8x2"),
    ],
)
def test_a_topology_that_is_not_one_is_said_with_what_there_is(name, said):
    with pytest.raises(UserError) as found:
        topology.parse(name)
    assert said in str(found.value)


def test_the_share_of_a_gpu_is_the_one_that_jax_is_told(monkeypatch):
    topology.chips.cache_clear()
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.9")
    assert topology.parse("h100:8").chip.usable == 0.9
    assert topology.parse("v5e:4x4").chip.usable == 0.967
    topology.chips.cache_clear()


def test_a_collective_that_leaves_its_node_has_the_cards_of_the_members_inside():
    nodes = topology.parse("h100:8x4")
    assert nodes.rate(8, 8) == 450e9
    assert nodes.rate(32, 32) == 8 * 50e9  # all eight of a node
    assert nodes.rate(4, 32) == 50e9  # one of each node


# ---- bytes, by hand


def test_arguments_of_a_small_shape_by_hand():
    """tiny: V 320, D 64, F 128, 2 layers, 4 heads and 2 key heads of 16; LoRA of rank 4 on all."""
    terms = memory.arguments(layout_of("smoke,lora,r=4", "--config.optim.name=adamw"))
    q, kv, layer_norms = 64 * 64, 64 * 32, 2 * 64
    weights = 2 * (2 * q + 2 * kv + 3 * 64 * 128 + layer_norms) + 320 * 64 + 64
    assert terms["weights, frozen"] == 4 * weights
    factors = 2 * 4 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    scales = 2 * 4 * 7
    assert terms["adapter"] == 4 * (factors + scales)
    # two moments of every factor; the rest are counts and hyperparameters
    assert 0 <= terms["optimizer"] - 4 * 2 * factors <= 64
    assert terms["batch"] == 5 * 4 * 2 * 512


def test_llama_2_7b_has_its_published_number_of_parameters():
    assert spec.count(llama.specs(PRESETS["llama2-7b"])) == 6_738_415_616
    terms = memory.arguments(layout_of("paper,full"))
    assert terms["weights, trained"] == 4 * 6_738_415_616
    assert memory.arguments(layout_of("paper"))["weights, frozen"] == 2 * 6_738_415_616


def test_what_remat_saves_by_hand():
    """Llama-2-7B in bfloat16: a layer's input; and q, k, v, attention's output, gate, up, x A."""
    d, f, heads, ranks = 4096, 11008, 32, 16 * 7
    saved = {
        remat: layout_of("paper", f"--config.model.remat={remat}").block.saved
        for remat in ("none", "selective", "full")
    }
    assert saved["full"].token == 2 * d
    logsumexp = 4 * heads
    assert saved["selective"].token == 2 * (5 * d + 2 * f + ranks) + logsumexp
    assert saved["none"].token > 3 * saved["selective"].token
    assert saved["full"].square == saved["selective"].square == 0
    # attention's dropout has weights of every pair of tokens
    drops = layout_of("smoke,lora,r=4", "--config.model.attention_dropout=0.1")
    assert drops.block.within.square > 0


def test_adapters_shrink_with_the_chips():
    """Rank 16: A, B and both moments, on 16, 256 and 4096 chips."""

    def adapter_bytes(mesh):
        terms = memory.arguments(layout_of("paper", "--config.optim.name=adamw", mesh=mesh))
        return terms["adapter"] + terms["optimizer"]

    whole, sixteen, pod = (adapter_bytes(MeshShape(1, n, 1)) for n in (1, 16, 256))
    # but for the scales, which are 16 numbers each
    assert whole / 16 == pytest.approx(sixteen, rel=0.01)
    assert whole / 256 == pytest.approx(pod, rel=0.04)
    # A of what reads the residual stream has no dimension that the tensor axis may split
    assert adapter_bytes(MeshShape(1, 256, 16)) < 0.5 * pod
    assert adapter_bytes(MeshShape(16, 256, 1)) == pod


def test_the_kv_cache_by_hand():
    """tiny in float32: keys and values of 2 layers, 2 key heads of 16; 2 rows of 512 + 8 slots."""
    one = memory.of(layout_of("smoke,lora,r=4"), topology.parse("h200:1"))
    assert one.evaluation["KV cache"] == 2 * 2 * 2 * 16 * 4 * 2 * (512 + 8)
    mesh = MeshShape(1, 2, 2)
    four = memory.of(layout_of("smoke,lora,r=4", mesh=mesh), topology.parse("h200:4"))
    assert four.evaluation["KV cache"] == one.evaluation["KV cache"] / 2


# ---- FLOPs, by hand


@pytest.mark.parametrize(("words", "passes"), [("paper,full", 3), ("paper", 2)])
def test_four_n_for_adapters_and_six_n_for_full_finetuning(words, passes):
    one = layout_of(words)
    shape = PRESETS["llama2-7b"]
    in_layers = memory.layer_parameters(one) * shape.n_layers
    n = in_layers + shape.vocab_size * shape.d_model
    flops = compute.per_token(one)
    # beside which A and B of rank 16 are half a percent
    assert flops.products == pytest.approx(2 * passes * n, rel=0.01)
    # "full" computes the forward pass again, but for the last product, whose output nothing reads
    assert 0.75 * 2 * in_layers < flops.recomputed < 2 * in_layers
    none = compute.per_token(layout_of(words, "--config.model.remat=none"))
    assert none.recomputed == 0 and none.products == flops.products
    # T / 2 keys of 4096 numbers each: twice forward, five times backward, once more under remat
    assert flops.attention == 32 * (2 + 5 + 2) * 2 * 512 * 4096


def test_tensor_shares_are_the_whole():
    flag = "--config.model.remat=none"
    whole, shared = layout_of("paper", flag), layout_of("paper", flag, mesh=MeshShape(1, 1, 8))
    assert compute.per_token(shared).products == pytest.approx(
        compute.per_token(whole).products, rel=0.03
    )
    assert compute.of(shared).wide == pytest.approx(compute.of(whole).wide / 8, rel=0.01)


def test_collectives_by_hand():
    """A layer's weights are gathered twice, embedding and head once; gradients of the adapter are
    reduced: over fsdp 4 in bfloat16, over data 2."""
    found = compute.collectives(layout_of("paper", mesh=MeshShape(2, 4, 1)))
    by_kind = {each.kind: each for each in found}
    gathered = by_kind["all-gather over fsdp"]
    ends = 2 * 32000 * 4096
    assert gathered.bytes == pytest.approx(3 / 4 * 2 * (2 * 6.74e9 - ends), rel=0.01)
    factors = 4 * 32 * 16 * (8 * 4096 + 3 * (4096 + 11008))
    scattered = by_kind["reduce-scatter over fsdp"].bytes
    assert scattered == pytest.approx(3 / 4 * factors / 2, rel=0.01)
    assert by_kind["all-reduce over data"].bytes == pytest.approx(2 / 2 * factors / 4, rel=0.01)
    assert (gathered.members, gathered.span) == (4, 4)
    # dequantised before it is gathered, and once more
    quantised = compute.collectives(layout_of("paper,qlora", mesh=MeshShape(2, 4, 1)))[0]
    layers = 2 * (6.74e9 - ends)
    assert quantised.bytes == pytest.approx(3 / 4 * (3 * layers + 2 * ends), rel=0.02)
    full = compute.collectives(layout_of("paper,full", mesh=MeshShape(1, 4, 1)))
    by_kind = {each.kind: each for each in full}
    assert by_kind["all-gather over fsdp"].bytes == pytest.approx(gathered.bytes, rel=0.01)
    assert by_kind["all-reduce over fsdp"].bytes == pytest.approx(2 * 3 / 4 * 4 * ends)
    assert compute.collectives(layout_of("paper")) == ()


def test_weights_that_a_gpu_transposes_are_copied_once_a_step():
    """o, down, embedding and head, split over fsdp by their last axis; also as they are quantised."""
    gpu, tpu = topology.parse("h100:8").chip, topology.parse("v5e:4x4").chip
    name, mesh = "weights, copied once a step", MeshShape(1, 8, 1)
    copied = (32 * 4096 * (4096 + 11008) + 2 * 32000 * 4096) / 8
    stored = memory.temporaries(layout_of("paper", mesh=mesh), gpu)[name]
    assert stored == pytest.approx(2 * copied)
    quantised = memory.temporaries(layout_of("paper,qlora", mesh=mesh), gpu)[name]
    assert 0.25 * stored < quantised < 0.5 * stored
    assert memory.temporaries(layout_of("paper"), gpu)[name] == 0
    # a TPU casts what trains, and gathers along any axis
    assert memory.temporaries(layout_of("paper", mesh=mesh), tpu)[name] == 0
    full = layout_of("paper,full", mesh=mesh)
    assert memory.temporaries(full, tpu)[name] == pytest.approx(2 * 6.74e9 / 8, rel=0.01)


# ---- the whole plan


def chip_of(size):
    """A v5e with so many bytes of memory."""
    chip = dataclasses.replace(topology.parse("v5e:1x1").chip, hbm_bytes=size, usable=1.0)
    return topology.Topology("small", chip, 1)


def test_a_config_that_cannot_fit_says_so_and_names_what_does():
    words, flags = "smoke,lora,r=4", ("--config.train.batch=16", "--config.model.remat=none")
    none = plan.of(config(words, *flags), chip_of(1e5))
    assert not none.memory.fits and none.nearest is None

    large = plan.of(config(words, *flags), chip_of(3e7))
    assert not large.memory.fits and large.nearest.memory.fits
    # another microbatch is less of a change than another remat
    assert "--config.model.remat=none" in large.nearest.flags
    # its flags, given to the same command, fit
    assert plan.of(config(words, *flags, *large.nearest.flags), chip_of(3e7)).memory.fits


def test_flags_of_a_chosen_mesh_can_be_pasted():
    chosen = config("smoke,lora,r=4,mesh=auto", "--config.train.batch=16")
    planned = plan.of(chosen, chip_of(3e7))
    assert planned.why.startswith("1 devices, 16 rows")
    again = config("smoke,lora,r=4,mesh=auto", "--config.train.batch=16", *planned.nearest.flags)
    assert plan.of(again, chip_of(3e7)).memory.fits


def test_the_fastest_that_fits_comes_first():
    small = config("smoke,lora,r=4", "--config.train.batch=4")
    found = search.ranked(small, topology.parse("h100:1"))
    assert len(found) == 9 and all(each.memory.fits for each in found)
    times = [each.time.total.fast * each.time.total.slow for each in found]
    assert times == sorted(times)
    assert {each.layout.mesh.devices for each in found} == {1}
    meshes = {
        (mesh.data, mesh.fsdp, mesh.tensor) for mesh in search.meshes(topology.parse("h100:2"))
    }
    assert meshes == {(2, 1, 1), (1, 2, 1), (1, 1, 2)}


def test_more_work_takes_longer():
    cpu = Chip("cpu", 1e11, 1e11, 8e9, 0.9, 1e10, 1e10, 1e10, 1, 0, 1, narrow=1e10)
    machine = topology.parse("cpu:1", cpu)
    small = timing.step(layout_of("smoke,lora,r=4"), machine).total
    full = timing.step(layout_of("smoke,full"), machine).total
    longer = timing.step(layout_of("smoke,lora,r=4", "--config.train.batch=4"), machine).total
    assert small.fast < small.slow and full.slow > small.slow and longer.fast > small.fast


def test_steps_are_what_the_config_or_a_paper_says():

    def steps(words, *flags):
        known = length.of(config(words, *flags))
        return known.fewest, known.most

    assert steps("smoke,lora,r=4") == (6, 6)
    assert steps("smoke,lora,r=4", "--config.train.tokens=1e6") == (977, 977)
    fewest, most = steps("paper")
    assert fewest == 131 and 131 < most < 200
    epochs = config("smoke,lora,r=4", "--config.train.epochs=2")
    unknown = plan.of(epochs, topology.parse("h200:1")).run
    assert unknown.hours is None and "word_problems" in unknown.steps.why
    magicoder = command_line.parse(["plan", "--config=configs/code_ift.py:paper"], "", {})[0]
    # the paper's 193 steps an epoch
    assert length.of(magicoder).most == 193


def test_the_command_prints_a_table_or_json(capsys):
    argv = ["plan", "--config=configs/math_ift.py:smoke,lora,r=4", "--topology=h200:1"]
    command.main([*argv, "--price=2"])
    shown = capsys.readouterr().out
    for words in ("weights, frozen", "seconds a step", "cost, at 2", "fits:", "largest term"):
        assert words in shown
    command.main([*argv, "--json"])
    values = json.loads(capsys.readouterr().out)
    assert values["fits"] and values["chips"] == 1 and values["steps"]["most"] == 6
    command.main([*argv, "--search"])
    assert "6 fit; the first one's flags" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "no --topology given; there are: v5e:4x4"),
        (("--topology=h100:8", "--config.mesh.tensor=3"), "does not multiply to the 8 chips"),
        (("--topology=h100:8", "--config.mesh.tensor=8"), "does not divide this model's"),
        (("--topology=h100:1", "--config.model.name=llama9"), "is unknown; there are"),
        (("--topology=h100:1", "--price=-1"), "--price=-1 must not be negative"),
    ],
)
def test_mistakes_are_said_in_a_line(flags, said):
    with pytest.raises(UserError) as found:
        command.main(["plan", "--config=configs/math_ift.py:smoke,lora,r=4", *flags])
    assert said in str(found.value)


def test_a_batch_that_the_devices_do_not_divide():
    fixed = config("smoke,lora,r=4", "--config.mesh.fsdp=8", "--config.mesh.data=1")
    with pytest.raises(UserError, match="cannot be split evenly"):
        plan.of(fixed, topology.parse("h100:8"))
    planned = plan.of(config("smoke,lora,r=4"), topology.parse("h100:8"))
    assert "cannot be split evenly" in planned.warnings[0]


def test_every_dataclass_of_a_plan_is_plain():
    planned = plan.of(config("smoke,lora,r=4"), topology.parse("h200:1"))
    assert json.dumps(plan.as_json(planned, 1.0))
    assert dataclasses.asdict(planned.time.total)["fast"] > 0


@pytest.mark.slow  # a process of its own; test_tiers.py reads what modules import
def test_a_plan_imports_nothing_that_is_slow():
    code = """
import sys
from lfl_jax import plan
plan.main(["plan", "--config=configs/math_ift.py:paper", "--topology=h200:8"])
heavy = {"orbax", "grain", "matplotlib", "tokenizers", "gguf", "sentencepiece", "pyarrow"}
print("loaded:", sorted(heavy & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("loaded: []\n")
