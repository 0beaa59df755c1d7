"""Task arithmetic: two skills added, and one taken away again (Ilharco et al., arXiv 2212.04089).

    python examples/task_arithmetic.py

Each LoRA is trained alone. Adding their weight changes gives a model with both skills; subtracting
one gives back, but for rounding, the other alone.
"""

import skills

from lfl_jax import adapters


def main() -> dict[str, dict[str, float]]:
    """Nats per answer token of each model on each skill."""
    params = skills.base()
    caps, following = skills.taught("caps"), skills.taught("next")
    both = adapters.add(caps, following)
    models = {
        "base": {},
        "caps": caps,
        "next": following,
        "caps + next": both,
        "0.7 (caps + next)": adapters.scale(both, 0.7),
        "caps + next - next": adapters.add(both, adapters.negate(following)),
    }
    return {name: skills.nll(params, adapter) for name, adapter in models.items()}


if __name__ == "__main__":
    skills.table("nats per answer token (lower is better)", main())
