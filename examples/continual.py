"""Continual learning: a second skill on top of a first, whose adapter stays active and frozen.

    python examples/continual.py

Training the one adapter further makes it forget the first skill. A second adapter, trained while
the first is active,
leaves it as it was: with the second one's routing at 0 the model of before is there again, to the
last bit.
"""

import jax
import jax.numpy as jnp
import skills

from lfl_jax import adapters

# of a stack: the members at a weight are its layers/0, layers/1, ...
SECOND = ("adapter/layers/.*/layers/1/.*",)


def main() -> tuple[dict[str, dict[str, float]], bool]:
    """Nats per answer token of each model, and whether the first adapter is still what it was."""
    params = skills.base()
    first = skills.taught("caps")
    lessons = skills.lessons("next")
    _, further = skills.learn(
        params, first, ("adapter/.*",), lessons, steps=skills.STEPS, lr=skills.LR
    )
    both = adapters.stack(first, skills.fresh(seed=2))
    _, both = skills.learn(params, both, SECOND, lessons, steps=skills.STEPS, lr=skills.LR)
    again = adapters.select(both, 0)
    unchanged = all(map(jnp.array_equal, jax.tree.leaves(again), jax.tree.leaves(first)))
    models = {
        "base": {},
        "caps": first,
        "caps, then next": further,
        "caps (frozen) + next": both,
        "its first": again,
    }
    return {name: skills.nll(params, adapter) for name, adapter in models.items()}, unchanged


if __name__ == "__main__":
    found, unchanged = main()
    skills.table("nats per answer token (lower is better)", found)
    print("the first adapter is unchanged to the last bit:", unchanged)
