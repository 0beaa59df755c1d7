"""A mixture whose weights are learned: everything is frozen but one number per adapter.

    python examples/mixture.py

It prints

    nats per answer token (lower is better)
                          copy     caps     next
    weights 1, 1         1.053    0.654    0.960
    learned weights      0.852    0.884    0.596
    learned weights of caps and next: 0.90, 0.96

`stack` takes its weights as an array that may be traced, so they are trained like anything else:
here by Adam, on a few examples of all skills (LoraHub, Huang et al., arXiv 2307.13269, learns them
without gradients).
"""

import jax
import jax.numpy as jnp
import optax
import skills

from lfl_jax import adapters, losses
from lfl_jax.core.types import AdapterTree, Batch, Params

STEPS = 60


def learn_weights(params: Params, members: tuple[AdapterTree, ...], rows: Batch) -> jax.Array:
    """The weights (M,) of the members that fit these examples best, starting from all ones."""
    # two numbers train, so 24 examples are enough
    optimizer = optax.adam(0.03)
    weights = jnp.ones(len(members))
    state = optimizer.init(weights)

    def loss(weights: jax.Array) -> jax.Array:
        # the adapters are built inside of the loss: that is all it takes to differentiate by w
        mixture = adapters.stack(*members, weights=weights)
        return losses.nll_sum(params, mixture, rows, skills.CFG) / jnp.sum(rows["weights"])

    @jax.jit
    def step(weights: jax.Array, state: optax.OptState) -> tuple[jax.Array, optax.OptState]:
        updates, state = optimizer.update(jax.grad(loss)(weights), state)
        return optax.apply_updates(weights, updates), state

    for _ in range(STEPS):
        weights, state = step(weights, state)
    return weights


def main() -> tuple[dict[str, dict[str, float]], list[float]]:
    """Nats per answer token, with equal and with learned weights, and the weights."""
    params = skills.base()
    members = skills.taught("caps"), skills.taught("next")
    examples = skills.batch(["caps", "next", "copy"] * 8, seed=5)
    rows = {name: jnp.asarray(x[0]) for name, x in examples.items()}

    weights = learn_weights(params, members, rows)
    equal, learned = adapters.stack(*members), adapters.stack(*members, weights=weights)
    results = {
        "weights 1, 1": skills.nll(params, equal),
        "learned weights": skills.nll(params, learned),
    }
    return results, weights.tolist()


if __name__ == "__main__":
    results, weights = main()
    skills.table("nats per answer token (lower is better)", results)
    print("learned weights of caps and next:", ", ".join(f"{w:.2f}" for w in weights))
