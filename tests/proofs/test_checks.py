"""Every check of the doctor, seen proving and seen failing: what it checks is broken on purpose."""

import dataclasses
import os
import shutil
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lfl_jax
from lfl_jax import adapters, errors, train_step
from lfl_jax import state as states
from lfl_jax.data import tokenized
from lfl_jax.errors import UserError
from lfl_jax.evals import sandbox
from lfl_jax.io.interrupt import interrupts
from lfl_jax.kernels.low_rank.pallas_tpu import PallasTPU
from lfl_jax.models import llama
from lfl_jax.models.cache import Cache
from lfl_jax.proofs import checks, meshes
from lfl_jax.proofs.finding import FAILED, NOT_APPLICABLE, PROVED
from lfl_jax.proofs.meshes import OnMesh
from lfl_jax.run_setup import auto_mesh
from lfl_jax.text.chat import Template


def no_memory(run, patch):
    patch.setattr(auto_mesh, "device_memory", lambda: 1e6)


def full_disk(run, patch):
    patch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1000))


def nothing_isolated(run, patch):
    def refuse(allow_weak=False):
        raise UserError("generated code is not run here: no namespaces (EPERM)")

    patch.setattr(sandbox, "level", refuse)


def no_eos(run, patch):
    plain = tokenized.token_ids
    patch.setattr(tokenized, "token_ids", lambda *args: tuple(x[:-1] for x in plain(*args)))


def weights_in_bfloat16(run, patch):
    plain = states.create

    def create(*args):
        state, frozen = plain(*args)
        narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.trainable)
        return state.replace(trainable=narrow), frozen

    patch.setattr(states, "create", create)


def moments_are_not_restored(run, patch):
    plain = states.restored

    def restored(saved, state, frozen):
        loaded, frozen = plain(saved, state, frozen)
        return loaded.replace(opt_state=state.opt_state), frozen

    patch.setattr(states, "restored", restored)


def examples_see_each_other(run, patch):
    plain = llama.attention_mask
    one = lambda ids, *args, **options: plain(jnp.minimum(ids, 1), *args, **options)  # noqa: E731
    patch.setattr(llama, "attention_mask", one)


def only_one_microbatch_counts(run, patch):
    first = lambda objective, trainable, batch, key: objective.gradients(  # noqa: E731
        trainable, jax.tree.map(lambda x: x[0], batch), None
    )
    patch.setattr(train_step, "_accumulate", first)


def a_fresh_adapter_changes_something(run, patch):
    run.__dict__["fresh"] = run.trained.adapter


def half_of_a_scale(run, patch):
    plain = adapters.scale
    patch.setattr(adapters, "scale", lambda adapter, t: plain(adapter, 1.001 * t))


def a_larger_change_is_merged(run, patch):
    plain = adapters.merge
    patch.setattr(adapters, "merge", lambda a, *args: plain(adapters.scale(a, 1.1), *args))


def another_alpha_in_peft(run, patch):
    from lfl_jax.io import peft

    plain = peft.save
    patch.setattr(peft, "save", lambda p, a, *x, **o: plain(p, adapters.scale(a, 1.001), *x, **o))


def the_cache_forgets(run, patch):
    patch.setattr(Cache, "with_segments", lambda cache, segment_ids: cache)


def a_kernel_is_off(run, patch):
    plain = PallasTPU.forward
    off = lambda *args: jax.tree.map(lambda x: 1.001 * x, plain(*args))  # noqa: E731
    patch.setattr(PallasTPU, "forward", off)


def devices_differ(run, patch):
    far = OnMesh("in order", {"gradients of step 1": 9.0, "checkpoint": float("nan")}, 3)
    object.__setattr__(run, "meshes", lambda: [far, far])


# What is broken on purpose, for each check, in the order of the list of all checks.
BREAKS = {
    "memory fits the plan": no_memory,
    "checkpoints fit the disk": full_disk,
    "sandbox for programs": nothing_isolated,
    "template, EOS and loss mask": no_eos,
    "float32 masters": weights_in_bfloat16,
    "resume is bit-exact": moments_are_not_restored,
    "packed = unpacked": examples_see_each_other,
    "accumulation 1 = k": only_one_microbatch_counts,
    "step 0: forgetting and KL = 0": a_fresh_adapter_changes_something,
    "laws of composition": half_of_a_scale,
    "merge error": a_larger_change_is_merged,
    "PEFT round trip": another_alpha_in_peft,
    "decoding with a cache": the_cache_forgets,
    "kernel = reference": a_kernel_is_off,
    "sharded = unsharded, gradients": devices_differ,
    "sharded = unsharded, saved files": devices_differ,
    "device order": devices_differ,
}
# Those that compile next to nothing; the others are seen failing under the slow marker.
QUICK = (
    *tuple(BREAKS)[:5],
    *(name for name in BREAKS if name.startswith(("sharded", "device"))),
)


def test_every_check_has_its_break():
    assert list(BREAKS) == list(checks.CHECKS)


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=() if x in QUICK else pytest.mark.slow) for x in BREAKS]
)
def test_a_check_fails_where_what_it_checks_is_broken(name, run, monkeypatch):
    if name == "sandbox for programs":
        run = with_tasks(run, "humaneval:4")
    check = checks.CHECKS[name]
    if "shard" not in name and "device" not in name:
        finding = checks.checked(check, run)
        assert finding.outcome == PROVED, finding
        shutil.rmtree(run.folder)
        run.folder.mkdir()
    jax.clear_caches()  # programs are traced again
    with monkeypatch.context() as patch:
        BREAKS[name](run, patch)
        finding = check(run)
    jax.clear_caches()
    assert finding.outcome == FAILED and finding.measured and finding.bound, finding


def with_tasks(run, *tasks):
    evaluations = dataclasses.replace(run.full.eval, tasks=tasks)
    return dataclasses.replace(run, full=dataclasses.replace(run.full, eval=evaluations))


def test_a_sandbox_that_passes_everything_has_failed(run, monkeypatch):
    passed = types.SimpleNamespace(passed=True)
    monkeypatch.setattr(sandbox, "check", lambda program, allow_weak: passed)
    finding = checks.CHECKS["sandbox for programs"](with_tasks(run, "humaneval:4"))
    assert finding.outcome == FAILED and "wrong" in finding.measured
    assert checks.CHECKS["sandbox for programs"](run).outcome == NOT_APPLICABLE


def test_a_template_whose_answers_carry_no_loss(run):
    silent = Template("silent", lambda turns: [(text, False) for _, text in turns])
    config = lfl_jax.get_config("math_ift:smoke").with_own(lfl_jax.Own(template=silent))
    finding = checks.CHECKS["template, EOS and loss mask"](dataclasses.replace(run, full=config))
    assert finding.outcome == FAILED and "is empty but for EOS" in finding.reason


def test_a_check_that_cannot_be_computed_has_failed(run):
    def broken(run):
        raise ZeroDivisionError("no rows")

    finding = checks.checked(broken, run)
    assert finding.outcome == FAILED and finding.reason == "ZeroDivisionError: no rows"


def test_a_stop_while_a_check_trains_ends_the_doctor(run, monkeypatch):
    def trains(run):
        with interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
            raise FileNotFoundError("the checkpoint")

    begun = {"first": trains, "second": lambda run: pytest.fail("went on")}
    monkeypatch.setattr(checks, "CHECKS", begun)
    monkeypatch.setattr(checks, "_begun", lambda run, stack: list)
    with pytest.raises(SystemExit) as ended:
        errors.entry(lambda argv: list(checks.check_all(run)), [])
    assert ended.value.code == 130


def test_results_of_a_mesh_are_compared_with_what_rounding_explains():
    wanted = {"weights": {"a": np.ones(4), "b": np.zeros(3)}}
    moved = [{"weights": {"a": np.ones(4) + 1e-7, "b": np.zeros(3)}}]
    near = {"weights": {"a": np.ones(4) + 3e-7, "b": np.zeros(3)}}
    assert meshes.times_of_rounding(near, wanted, moved)["weights"] == pytest.approx(3)
    far = {"weights": {"a": np.ones(4), "b": np.full(3, 1e-9)}}  # a tensor of zeros has to be zeros
    less, zeros = {"weights": {"a": np.ones(4)}}, {"weights": {"a": np.zeros(4)}}
    for computed, expected in ((far, wanted), (less, wanted), (zeros, zeros)):
        assert meshes.times_of_rounding(computed, expected, moved)["weights"] == np.inf
    nan = {"weights": {"a": np.full(4, np.nan), "b": np.zeros(3)}}
    assert np.isnan(meshes.times_of_rounding(nan, wanted, moved)["weights"])


@pytest.mark.slow
def test_a_mesh_whose_step_is_another_one_is_seen(run, monkeypatch):
    step, plain, calls = meshes.step_of(run), meshes.train_step, []

    def off(state, *args, **options):
        calls.append(0)
        state, metrics = plain(state, *args, **options)
        # Two steps for each of three draws of one device; after that it is the mesh's.
        if len(calls) > 2 * (1 + meshes.DRAWS):
            state = state.replace(trainable=jax.tree.map(lambda x: 1.001 * x, state.trainable))
        return state, metrics

    monkeypatch.setattr(meshes, "train_step", off)
    (mesh, _) = meshes.on_devices(step)
    assert (
        mesh.times["gradients of step 1"] < 8 < min(mesh.times["weights"], mesh.times["checkpoint"])
    )
