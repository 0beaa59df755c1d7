"""Task arithmetic: two skills added, and one taken away again (Ilharco et al., arXiv 2212.04089).

    python examples/task_arithmetic.py

It prints

    nats per answer token (lower is better)
                             copy     caps     next
    base                    0.001    8.292    8.680
    caps                    0.005    0.006    7.164
    next                    0.004    6.765    0.009
    caps + next             1.053    0.654    0.960
    0.7 (caps + next)       0.412    1.292    1.173
    caps + next - next      0.005    0.006    7.164

Each LoRA is trained alone. Adding their weight changes gives a model with both skills; subtracting
one gives back, but for rounding, the other alone.
"""

import skills

from lfl_jax import adapters


def main() -> dict[str, dict[str, float]]:
    """Nats per answer token of each model on each skill."""
    params = skills.base()
    caps, following = skills.taught("caps"), skills.taught("next")
    # adapters are values: adding two leaves both as they were, and there is nothing to activate
    both = adapters.add(caps, following)
    models = {
        "base": {},
        "caps": caps,
        "next": following,
        "caps + next": both,
        "0.7 (caps + next)": adapters.scale(both, 0.7),
        # not merged and unmerged: three adapters, whose weight changes add up to one
        "caps + next - next": adapters.add(both, adapters.negate(following)),
    }
    return {name: skills.nll(params, adapter) for name, adapter in models.items()}


if __name__ == "__main__":
    skills.table("nats per answer token (lower is better)", main())
