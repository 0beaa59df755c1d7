"""Continual learning: a second skill on top of a first, whose adapter stays active and frozen.

    python examples/continual.py

It prints

    nats per answer token (lower is better)
                               copy     caps     next
    base                      0.001    8.292    8.680
    caps                      0.005    0.006    7.164
    caps, then next           6.383    6.075    0.003
    caps (frozen) + next      7.212    6.638    0.003
    its first                 0.005    0.006    7.164
    the first adapter is unchanged, bit for bit: True

Training the one adapter further makes it forget the first skill. A second adapter, trained while
the first is active, leaves it as it was: without the second one the model of before is there again,
bit-exact.
"""

import jax
import jax.numpy as jnp
import skills

from lfl_jax import adapters

# of a stack: the adapters at a weight are its layers/0, layers/1, ...
SECOND = ("adapter/layers/.*/layers/1/.*",)


def main() -> tuple[dict[str, dict[str, float]], bool]:
    """Nats per answer token of each model, and whether the first adapter is unchanged."""
    params, lessons = skills.base(), skills.lessons("next")
    first = skills.taught("caps")

    # one adapter for both skills
    _, further = skills.learn(params, first, ("adapter/.*",), lessons)

    # an adapter for each: the patterns in SECOND leave the first one frozen
    both = adapters.stack(first, skills.fresh(seed=2))
    _, both = skills.learn(params, both, SECOND, lessons)

    first_again = adapters.select(both, 0)
    is_unchanged = jax.tree.all(jax.tree.map(jnp.array_equal, first_again, first))
    models = {
        "base": {},
        "caps": first,
        "caps, then next": further,
        "caps (frozen) + next": both,
        "its first": first_again,
    }
    results = {name: skills.nll(params, adapter) for name, adapter in models.items()}
    return results, bool(is_unchanged)


if __name__ == "__main__":
    results, is_unchanged = main()
    skills.table("nats per answer token (lower is better)", results)
    print("the first adapter is unchanged, bit for bit:", is_unchanged)
