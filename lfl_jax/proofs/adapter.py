"""Adapters: their laws, what a fresh one changes, what merging costs, what is read back."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lfl_jax import adapters, losses, quant
from lfl_jax import state as states
from lfl_jax.adapters import KINDS
from lfl_jax.adapters.adapter_tree import named_layers
from lfl_jax.analysis import divergence
from lfl_jax.analysis.divergence import Variant
from lfl_jax.analysis.merge_error import EXPLAINED, merge_error
from lfl_jax.core.types import AdapterTree, Batch, Params, Routing
from lfl_jax.errors import UserError
from lfl_jax.io import adapter_file, peft
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.proofs import laws, rounding
from lfl_jax.proofs.finding import FAILED, Finding, at_most, judged, not_applicable
from lfl_jax.proofs.gradients import recording
from lfl_jax.proofs.laws import EXACT, ROUNDING, Case, Law
from lfl_jax.proofs.reduced import ReducedRun

TOKENS = 11  # of each of two rows
NO_ADAPTER = "there is no adapter: parameters of the model train"
# Mixes whose outcomes are stated beside those of single kinds.
STATED_MIXES = ("lora+dora",)
# Where laws are tried, those first that every kind can adapt.
MODULES = ("down", "o", "q", "up", "gate", "v", "k")
STORED = "bfloat16"  # of a merged model, as `export` writes it by default


def check_laws(run: ReducedRun) -> Finding:
    """The laws of docs/adapters.md hold for the adapter of this config."""
    kinds = run.config.adapter.kinds
    if not kinds:
        return not_applicable(NO_ADAPTER)
    tokens = jnp.asarray(run.batch["tokens"][:2, :TOKENS])
    case = Case.of(run.params, _at_two_weights(run), run.folder, tokens, run.exact)
    problems = {law.name: _problem(law, case, "+".join(kinds)) for law in laws.LAWS}
    broken = [f"{name}: {problem}" for name, problem in problems.items() if problem]
    refused = sum(problem is None for problem in problems.values())
    measured = f"{len(laws.LAWS) - len(broken) - refused} hold, {refused} do not apply"
    return judged(not broken, measured, "none broken", "; ".join(broken))


def _at_two_weights(run: ReducedRun) -> AdapterTree:
    """A fresh adapter of the config's kinds at two of its modules: each law compiles the model."""
    adapted = {path.split("/")[-1] for path, _ in named_layers(run.fresh)}
    targets = tuple(name for name in MODULES if name in adapted)[:2]
    config = dataclasses.replace(run.config.adapter, targets=targets)
    specs = adapters.specs(llama.specs(run.cfg), config)
    return adapters.init(specs, run.params, jax.random.key(run.config.seed.init), run.dense)


def _problem(law: Law, case: Case, kind: str) -> str | None:
    """How a law is broken; "" where it holds, None where it does not apply to this kind."""
    if kind in KINDS or kind in STATED_MIXES:
        outcome = law.stated(kind)
        # What is refused, or said not to hold, has to be so.
        return laws.violation(law, case, outcome) or ("" if outcome in (EXACT, ROUNDING) else None)
    # Of another mix, and of a kind of one's own: what holds for each, unless it is refused.
    outcomes = {law.stated(name) for name in kind.split("+")}
    if not outcomes <= {EXACT, ROUNDING}:
        return None
    try:
        return laws.violation(law, case, ROUNDING if ROUNDING in outcomes else EXACT)
    except UserError:
        return None


def check_identity(run: ReducedRun) -> Finding:
    """At step 0 nothing is forgotten: no token's loss differs from the base's, and the KL is 0."""
    kinds = run.config.adapter.kinds
    if "loftq" in kinds:
        return not_applicable("loftq corrects its quantised base, so that step 0 is not the base")
    rows = {name: jnp.asarray(x) for name, x in run.batch.items()}
    base, tuned = _base_and_step_0(run, len(rows["tokens"]))
    before, after = (_nll(run, rows, variant) for variant in (base, tuned))
    if {"pissa", "olora"} & set(kinds):
        return _only_rounding(run, rows, tuned, (after, before))

    kl = divergence.of_variants(base, tuned, rows, run.exact)
    largest = [float(jnp.abs(x).max()) for x in (after - before, *kl)]
    measured = f"forgetting {largest[0]:.2g}, KL {max(largest[1:]):.2g} nats"
    # Of losses that are zero no difference would be seen.
    return judged(max(largest) == 0 and float(before.max()) > 0, measured, "0")


def _only_rounding(
    run: ReducedRun, rows: Batch, tuned: Variant, losses: tuple[Array, Array]
) -> Finding:
    """Of kinds whose start is W - A B + A B: W but for rounding."""
    function = functools.partial(_nll_without_routing, run, rows)
    distance = rounding.distance(*losses, function, tuned.model)
    return at_most(distance.times, rounding.ROUNDINGS, "x rounding")


def _base_and_step_0(run: ReducedRun, count: int) -> tuple[Variant, Variant]:
    """The base as a run evaluates it, and the model that its first step begins with."""
    start = Model(params=run.params, adapter=run.fresh)
    tuned = states.model(*states.create(start, run.config.trainable, recording()))
    members = adapters.member_count(run.fresh)
    # The same program, with routing weights of 0.
    none = jnp.zeros((count, members)) if members else None
    return Variant(tuned if members else start, none), Variant(tuned, None)


# One program for both, so that equal models have equal losses.
def _nll(run: ReducedRun, rows: Batch, variant: Variant) -> Float[Array, "B T"]:
    model = variant.model
    return _per_token(model.params, model.adapter, rows, variant.routing, cfg=run.exact)


def _nll_without_routing(run: ReducedRun, rows: Batch, model: Model) -> Float[Array, "B T"]:
    return _nll(run, rows, Variant(model, None))


@functools.partial(jax.jit, static_argnames="cfg")
def _per_token(
    params: Params,
    adapter: AdapterTree,
    rows: Batch,
    routing: Routing | None,
    *,
    cfg: ModelConfig,
) -> Float[Array, "B T"]:
    return losses.per_token(params, adapter, rows, cfg, routing=routing)[0]


def check_merge(run: ReducedRun) -> Finding:
    """A merged model in bfloat16 differs from base and adapter by what rounding W + dW explains."""
    if not run.config.adapter.kinds:
        return not_applicable(NO_ADAPTER)
    # Of a quantised base, the weights that it computes with.
    params = jax.tree.map(quant.dense, run.params, is_leaf=quant.is_quantised)
    adapter = run.trained.adapter
    try:
        merged = adapters.merge(adapter, params, jnp.dtype(STORED))
    except UserError as error:
        return not_applicable(str(error))
    tokens = jnp.asarray(run.batch["tokens"])
    error = merge_error(params, adapter, merged, tokens, run.exact, jax.random.key(0))
    unit = f"x rounding to {STORED}"
    reason = f"logits: mean {error.mean:.2g}, rounding alone {error.expected_mean:.2g}"
    return at_most(error.mean / error.expected_mean, EXPLAINED, unit, reason)


def check_files(run: ReducedRun) -> Finding:
    """Read back, a PEFT folder has the same weight change, an adapter file the same bits."""
    if not run.config.adapter.kinds:
        return not_applicable(NO_ADAPTER)
    adapter, file = run.trained.adapter, run.folder / "adapter.safetensors"
    adapter_file.save(file, adapter)
    code = run.config.adapter.code
    pairs = zip(
        jax.tree.leaves(adapter_file.load(file, run.params, code=code)),
        jax.tree.leaves(adapter),
        strict=True,
    )
    if not all(np.array_equal(x, y) for x, y in pairs):
        return Finding(FAILED, "the adapter file's arrays differ", "no bit")
    try:
        peft.save(run.folder / "peft", adapter, run.params, base_name="reduced")
    except UserError as error:
        return not_applicable(f"PEFT has no such adapter: {error}; the adapter file is bit-exact")
    got = laws.dw(peft.load(run.folder / "peft", run.params).adapter, run.params)
    args = (adapter, run.params)
    distance = rounding.distance(got, laws.dw(*args), laws.dw, *args)
    return at_most(distance.times, rounding.ROUNDINGS, "x rounding", distance.path)
