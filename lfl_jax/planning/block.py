"""One decoder layer, traced and not run: what its forward pass saves, and the products it computes.

The layer is the one that trains, with its adapters, its dropout and its remat policy, so that no
formula has to follow the model's code. Only shapes are traced. Sizes are counted by the dimensions
that they have: ROWS and TIME are primes that no model's width contains.

Let N be the tokens of a device in a microbatch. A layer saves `saved.token` bytes for each of them
for the backward pass, `saved.square` for each pair of tokens of a row (attention with dropout), and
`saved.once` whatever the batch is (weights cast to the compute dtype).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax.extend import core as jax_core
from jax.interpreters import partial_eval

from lfl_jax.adapters.site import AdapterContext
from lfl_jax.config import Config
from lfl_jax.core import spec, tree
from lfl_jax.core.types import PyTree
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.models.layers import Layer
from lfl_jax.models.mask import AttentionMask, attention_mask
from lfl_jax.models.rotary import rotation
from lfl_jax.planning.bands import Number
from lfl_jax.run_setup import model_specs

ROWS, TIME = 10007, 127
# a side of a product below which a matrix unit of 128 x 128 is not full
FULL_SIDE = 128


@dataclasses.dataclass(frozen=True)
class Sizes:
    """An amount as a function of the batch: for each token, for each pair of a row's, and once."""

    token: Number = 0.0
    square: Number = 0.0
    once: Number = 0.0

    def __add__(self, other: "Sizes") -> "Sizes":
        return Sizes(self.token + other.token, self.square + other.square, self.once + other.once)

    def of(self, tokens: Number, row: int) -> Number:
        """The amount of so many tokens in rows of `row`."""
        return self.token * tokens + self.square * tokens * row + self.once


@dataclasses.dataclass(frozen=True)
class Products:
    """FLOPs of matrix products, 2 for a multiplication and addition.

    wide: with all sides of at least 128. narrow: the others, such as those of A and B. filled: the
    narrow ones, with short sides filled up to 128, as a matrix unit computes them. Attention's own
    products are no part of these.
    """

    wide: Sizes = Sizes()
    narrow: Sizes = Sizes()
    filled: Sizes = Sizes()

    def __add__(self, other: "Products") -> "Products":
        return Products(
            self.wide + other.wide, self.narrow + other.narrow, self.filled + other.filled
        )

    @property
    def token(self) -> Number:
        """FLOPs a token."""
        return self.wide.token + self.narrow.token


@dataclasses.dataclass(frozen=True)
class Block:
    """A layer under a remat policy.

    saved: bytes that the forward pass leaves for the backward pass. within: bytes saved inside of
    the layer where nothing is recomputed, which the backward pass of one layer has in memory.
    forward, both: products of the forward pass, and of forward and backward pass together.
    """

    saved: Sizes
    within: Sizes
    forward: Products
    both: Products


@functools.lru_cache(maxsize=64)
def trace(config: Config, cfg: ModelConfig, remat: str) -> Block:
    """The layer of a model of this shape, which may be a device's share of the config's."""
    cfg = dataclasses.replace(cfg, remat=remat)
    function, arguments = _layer(config, cfg)

    def differentiated(x: PyTree, trained: PyTree, *rest: PyTree) -> tuple[PyTree, Callable]:
        return jax.vjp(lambda x, trained: function(x, trained, *rest), x, trained)

    def both(x: PyTree, trained: PyTree, *rest: PyTree) -> PyTree:
        y, back = differentiated(x, trained, *rest)
        return back(y)

    program = jax.make_jaxpr(differentiated)(*arguments).jaxpr
    # a layer's input is saved, too: it is another layer's output
    saved = sum(map(_bytes, _made(program)), _bytes(program.invars[0].aval))
    products = _products(_used(jax.make_jaxpr(both)(*arguments).jaxpr))
    if remat == "none":
        forward = _products(_used(jax.make_jaxpr(function)(*arguments).jaxpr))
        return Block(saved, saved, forward, products)
    plain = trace(config, cfg, "none")
    return Block(saved, plain.within, plain.forward, products)


def _layer(config: Config, cfg: ModelConfig) -> tuple[Callable, tuple[PyTree, ...]]:
    """(x, trained, frozen, context, key) -> y of one layer, and its arguments as shapes."""
    trainable, frozen = map(_one_layer, model_specs.halves(config, cfg))
    x = jax.ShapeDtypeStruct((ROWS, TIME, cfg.d_model), cfg.compute_dtype)
    ids = jax.ShapeDtypeStruct((ROWS, TIME), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0)) if cfg.drops else None

    # the same for all layers: made once, and an input of each
    def context(ids: PyTree) -> PyTree:
        return rotation(ids, cfg), attention_mask(ids, ids, window=cfg.window).mask

    def function(x: PyTree, trained: PyTree, rest: PyTree, both: PyTree, key: PyTree) -> PyTree:
        layer, (angles, mask) = tree.combine(trained, rest), both
        in_adapters = AdapterContext(dropout=cfg.adapter_dropout, shared=layer["shared"] or None)
        # blocks of queries, as the kernels of GPUs and TPUs: no array of all scores is saved
        shared = llama.LayerContext(cfg, angles, AttentionMask(mask), in_adapters)
        block = llama.rematerialised(partial(llama.block, context=shared), cfg)
        return block(x, Layer(layer["params"], llama.both_parts(layer["adapter"]), key))[0]

    return function, (x, trainable, frozen, jax.eval_shape(context, ids), key)


def _one_layer(model: Model) -> dict[str, PyTree]:
    """Shapes of one layer of the stack, and of what all layers of an adapter share."""
    adapter = model.adapter or {}

    def first(leaf: spec.ArraySpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)

    def whole(leaf: spec.ArraySpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    return {
        "params": spec.tree_map(first, model.params["layers"]),
        "adapter": spec.tree_map(first, adapter.get("layers", {})),
        "shared": spec.tree_map(whole, adapter.get("shared", {})),
    }


def _made(jaxpr: jax_core.Jaxpr) -> Iterator[jax.core.ShapedArray]:
    """Outputs that the program made, each once: an input that it passes on takes no new memory."""
    seen = {id(variable) for variable in jaxpr.invars}
    for variable in jaxpr.outvars[1:]:
        if id(variable) not in seen and isinstance(variable, jax_core.Var):
            seen.add(id(variable))
            yield variable.aval


def _bytes(aval: jax.core.ShapedArray) -> Sizes:
    """Bytes of an array, by what they grow with."""
    # a random key has its own dtype, without a size
    width = getattr(aval.dtype, "itemsize", 8)
    return _scaled(math.prod(aval.shape), width)


def _scaled(amount: int, factor: Number) -> Sizes:
    """An amount of elements as an amount for each token, pair of tokens, or once."""
    if amount % ROWS:
        return Sizes(once=amount * factor)
    of_row = amount // ROWS
    if of_row % TIME**2 == 0:
        return Sizes(square=of_row // TIME**2 * factor)
    return Sizes(token=of_row / TIME * factor)


def _used(jaxpr: jax_core.Jaxpr) -> jax_core.Jaxpr:
    """The program without what no output needs, as a compiler leaves it out.

    A product with its own backward rule has the gradient of a frozen weight in it.
    """
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def _products(jaxpr: jax_core.Jaxpr) -> Products:
    """Products of a program and of the programs inside it; those of attention are left out."""
    total = Products()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total = total + _product(equation)
        for parameter in equation.params.values():
            inner = parameter if isinstance(parameter, list | tuple) else (parameter,)
            for program in inner:
                program = getattr(program, "jaxpr", program)
                if isinstance(program, jax_core.Jaxpr):
                    total = total + _products(program)
    return total


def _product(equation: jax_core.JaxprEqn) -> Products:
    (contracted, _), (batched, _) = equation.params["dimension_numbers"]
    # only attention's products have a dimension of heads, or of rows, on both sides
    if batched:
        return Products()
    left, right = (variable.aval.shape for variable in equation.invars)
    k = math.prod(left[i] for i in contracted)
    sides = (math.prod(left) // k, math.prod(right) // k, k)
    flops = _scaled(2 * math.prod(sides), 1)
    if min(sides) >= FULL_SIDE:
        return Products(wide=flops)
    filled = [max(side, FULL_SIDE) for side in sides]
    return Products(narrow=flops, filled=_scaled(2 * math.prod(filled), 1))
