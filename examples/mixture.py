"""A mixture whose weights are learned: everything is frozen but one number per adapter.

    python examples/mixture.py

`stack` takes its weights as an array that may be traced, so they are trained like anything else:
here by adam, on a few examples of both skills (LoraHub, Huang et al., arXiv 2307.13269, learns them
without gradients).
"""

import jax
import jax.numpy as jnp
import optax
import skills

from lfl_jax import adapters, losses

STEPS = 60


def learn_weights(params: dict, members: tuple[dict, ...], rows: dict) -> jax.Array:
    """The weights (M,) of the members that fit these examples best, from all ones."""
    optimizer = optax.adam(0.03)
    weights = jnp.ones(len(members))
    state = optimizer.init(weights)

    def loss(weights: jax.Array) -> jax.Array:
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
    few = jax.tree.map(
        lambda x: jnp.asarray(x[0]), skills.batch(["caps", "next", "copy"] * 8, seed=5)
    )
    weights = learn_weights(params, members, few)
    mixtures = {
        "weights 1, 1": adapters.stack(*members),
        "learned weights": adapters.stack(*members, weights=weights),
    }
    return {
        name: skills.nll(params, adapter) for name, adapter in mixtures.items()
    }, weights.tolist()


if __name__ == "__main__":
    found, learned = main()
    skills.table("nats per answer token (lower is better)", found)
    print("learned weights of caps and next:", ", ".join(f"{w:.2f}" for w in learned))
