"""One optax chain. It sees the trainable half only, so clipping and moments are of what trains and
nothing else."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array

from lfl_jax.adapters.kind import Kind
from lfl_jax.config import OptimConfig, own_code
from lfl_jax.core import tree
from lfl_jax.errors import UserError

Tree = Any  # arrays in dicts and adapter layers, None where nothing trains


def _adafactor(c: OptimConfig) -> optax.GradientTransformation:
    """Adafactor (Shazeer and Stern, arXiv 1804.04235) with optax's defaults.

    Steps are relative to a weight's RMS.
    """
    parts = (
        optax.scale_by_factored_rms(),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    )
    return _per_layer(optax.chain(*parts))


def _lamb(c: OptimConfig) -> optax.GradientTransformation:
    """LAMB (You et al., arXiv 1904.00962): Adam's direction at the size of the weight.

    Weight decay stays outside.
    """
    return optax.chain(
        optax.scale_by_adam(c.b1, c.b2, c.eps), _per_layer(optax.scale_by_trust_ratio())
    )


def _muon(c: OptimConfig) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024) for the layers' matrices, Nesterov Adam for the others.

    Each layer's matrix is orthogonalised by itself, an adapter's A and B too. Its size is that of
    an Adam step (RMS 0.2, Liu et al., arXiv 2502.16982), so that one learning rate serves both.
    """
    options = {"muon_weight_dimension_numbers": _matrices, "consistent_rms": 0.2}
    rates = {"beta": c.b1, "adam_b1": c.b1, "adam_b2": c.b2}
    return optax.chain(optax.contrib.muon(1.0, eps=c.eps, **rates, **options), optax.scale(-1.0))


Direction = Callable[[OptimConfig], optax.GradientTransformation]
# An optimizer of the user's: a direction, or a function that makes one.
Maker = optax.GradientTransformation | Direction
DIRECTIONS: dict[str, Direction] = {
    "adamw": lambda c: optax.scale_by_adam(c.b1, c.b2, c.eps),
    "lionw": lambda c: optax.scale_by_lion(c.b1, c.b2),
    "sgd": lambda c: optax.trace(c.b1),
    "adafactor": _adafactor,
    "lamb": _lamb,
    "muon": _muon,
}


def _is_stacked(path: tuple, x: jax.Array) -> bool:
    """Whether an array holds one of each layer along its first axis."""
    return "layers" in tree.name(path).split("/") and x.ndim > 0


def _matrices(tree: Tree) -> Tree:
    """The axes of rows and columns of stacked matrices; None for other arrays.

    Those are embedding and head, norms, vectors.
    """
    axes = optax.contrib.MuonDimensionNumbers(-2, -1)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: axes if _is_stacked(path, x) and x.ndim > 2 else None, tree
    )


def _per_layer(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same direction for one layer's array at a time.

    What it computes of a weight is then never computed over all layers.
    """

    def labels(tree: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(
            lambda path, x: "stacked" if _is_stacked(path, x) else "single", tree
        )

    def init(params: Tree) -> Tree:
        return jax.vmap(tx.init)(params) if jax.tree.leaves(params) else tx.init(params)

    def update(updates: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        both = (updates, state, params)
        return jax.vmap(tx.update)(*both) if jax.tree.leaves(params) else tx.update(*both)

    return optax.partition(
        {"stacked": optax.GradientTransformation(init, update), "single": tx}, labels
    )


def find(config: OptimConfig) -> Direction:
    """The factory of a direction: of DIRECTIONS, or one's own.

    UserError where that may not run.
    """
    if not own_code.is_place(config.name):
        return DIRECTIONS[config.name]
    return _own(own_code.find(config.code, "optim.name", config.name, is_optimizer))


def is_optimizer(value: object) -> bool:
    """Whether this is an optimizer, or a function that may make one."""
    return callable(value) or isinstance(value, optax.GradientTransformation)


@functools.lru_cache(maxsize=64)  # of one object always the same function, as `_make` wants it
def _own(optimizer: Maker) -> Direction:
    return functools.partial(_checked, optimizer)


def _checked(optimizer: Maker, config: OptimConfig) -> optax.GradientTransformation:
    tx = (
        optimizer
        if isinstance(optimizer, optax.GradientTransformation)
        else own_code.call(optimizer, config)
    )
    if not isinstance(tx, optax.GradientTransformation):
        raise UserError(
            f"optim.name={config.name} returned a {type(tx).__name__}, not a GradientTransformation"
        )
    if _descends(tx):
        raise UserError(
            f"optim.name={config.name} returns steps, which have the learning rate's minus already;"
            " return a direction, such as optax.scale_by_adam(): config.optim's lr, schedule,"
            " weight_decay and clip are applied around it (of a whole optimizer:"
            " optax.chain(optax.sgd(1.0), optax.scale(-1.0)))"
        )
    return tx


def _descends(tx: optax.GradientTransformation) -> bool:
    """Whether its first update points against the gradient.

    False where it needs other parameters than these.
    """
    ones = {"layers": {"attn": {"q": jnp.ones((1, 4, 4))}}}
    try:
        updates, _ = tx.update(ones, tx.init(ones), ones)
        return float(updates["layers"]["attn"]["q"].sum()) < 0
    # whatever it needs: this is a guess at a mistake, and training itself will tell
    except Exception:
        return False


def make(config: OptimConfig, schedule: Callable) -> optax.GradientTransformation:
    """p <- p - (lr_t / lr) (lr · direction + weight_decay · p).

    lora_plus · lr replaces lr for the leaves that a kind names so (LoRA's B). schedule: step ->
    lr_t / lr. Weight decay is decoupled from the learning rate as in Composer's DecoupledAdamW and
    DecoupledLionW, which the paper used: a fraction of the weight per step, scaled by the schedule
    only. Learning rate, decay and the numbers of a schedule that is a `Partial` are arrays of the
    optimizer state, so runs that differ in them share a compiled program.
    """
    # A direction of one's own may read any field.
    own = own_code.is_place(config.name)
    shape = config if own else dataclasses.replace(config, **SHAPELESS)
    curve, numbers = schedule, ()
    if isinstance(schedule, Partial):
        curve, numbers = schedule.func, tuple(map(float, schedule.args))
    tx = _make(shape, curve, find(config))
    return _begun_with(tx, config.lr, config.weight_decay, numbers)


# Fields that change numbers of the optimizer's state, and not what is computed from them.
SHAPELESS = {
    "lr": 1.0,
    "weight_decay": 0.0,
    "schedule": "",
    "warmup_steps": 0,
    "warmup_fraction": 0.0,
    "final_fraction": 0.0,
    "cooldown_fraction": 0.0,
}


class _Optimizer(optax.GradientTransformation):
    """An optimizer that equals another when their updates are one function.

    It is static to jit, which compiles again for one that differs: what is in the first state does
    not make it differ.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Optimizer) and self.update is other.update

    def __hash__(self) -> int:
        return hash(self.update)


@functools.lru_cache(maxsize=64)
def _begun_with(
    tx: optax.GradientTransformation, lr: float, weight_decay: float, numbers: tuple[float, ...]
) -> optax.GradientTransformation:
    """The same optimizer, begun with these in its state; numbers: of the schedule."""

    def init(params: Tree) -> optax.OptState:
        clip, direction, faster, step, scheduled = tx.init(params)
        rates = {"lr": jnp.float32(lr), "weight_decay": jnp.float32(weight_decay)}
        scheduled = scheduled._replace(numbers=tuple(map(jnp.float32, numbers)))
        return clip, direction, faster, step._replace(hyperparams=rates), scheduled

    return _Optimizer(init, tx.update)


# Runs of one process that have one share their program.
@functools.lru_cache(maxsize=64)
def _make(
    config: OptimConfig, schedule: Callable, direction: Direction
) -> optax.GradientTransformation:
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    step = optax.inject_hyperparams(_step)(lr=config.lr, weight_decay=config.weight_decay)
    return optax.chain(
        clip,
        direction(config),
        _faster(config.lora_plus),
        step,
        _scheduled(schedule),
    )


class Scheduled(NamedTuple):
    """Where a schedule is. numbers: what it computes from beside the step; None in a checkpoint."""

    count: Array
    numbers: tuple[Array, ...] | None


def _scheduled(curve: Callable) -> optax.GradientTransformation:
    """optax.scale_by_schedule for a curve of (*numbers, step), the numbers being state."""

    def init(params: Tree) -> Scheduled:
        return Scheduled(jnp.int32(0), ())

    def update(updates: Tree, state: Scheduled, params: Tree = None) -> tuple[Tree, Scheduled]:
        ratio = curve(*state.numbers, state.count)
        scaled = jax.tree.map(lambda x: jnp.asarray(ratio, x.dtype) * x, updates)
        return scaled, state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def to_checkpoint(state: optax.OptState) -> optax.OptState:
    """Without what the config says: a run may be resumed with another length."""
    return (*state[:-1], state[-1]._replace(numbers=None))


def from_checkpoint(saved: optax.OptState, begun: optax.OptState) -> optax.OptState:
    """What `to_checkpoint` left; the rest is that of a state that begins with the config of now."""
    return (*saved[:-1], saved[-1]._replace(numbers=begun[-1].numbers))


def _faster(ratio: float) -> optax.GradientTransformation:
    """LoRA+ (Hayou et al., arXiv 2402.12354): `Kind.lora_plus` learns `ratio` times as fast.

    Weight decay is as it was: it is added after this.
    """
    if ratio == 1.0:
        return optax.identity()

    def scale(node: Tree) -> Tree:
        if not isinstance(node, Kind):
            return node
        return jax.tree_util.tree_map_with_path(
            lambda path, x: ratio * x if path[0].name in node.lora_plus else x, node
        )

    # A map that stops at adapter layers; the rest of the tree, parameters, passes through.
    is_layer = lambda x: isinstance(x, Kind)  # noqa: E731
    return optax.stateless(lambda updates, _: jax.tree.map(scale, updates, is_leaf=is_layer))


def _step(lr: ArrayLike, weight_decay: ArrayLike) -> optax.GradientTransformation:
    return optax.chain(optax.scale(-lr), optax.add_decayed_weights(-weight_decay))
