"""One batch, several adapters: each example goes to its own, in training and in decoding.

    python examples/routing.py

It prints

    adapter  prompt      answer
    caps     caps head   HEAD
    next     caps head   afbea
    base     caps head   head
    caps     next head   HEADFHHA
    next     next head   afbe
    base     next head   aeaddaea
    caps     copy head   HEAD
    next     copy head   afbe
    base     copy head   head

A routing of integers (B,) names the adapter that example b uses, -1 being the base alone; floats
(B, M) would be weights of all adapters. The two adapters train together, in one forward pass per
batch, yet neither learns from the other's examples.
"""

from collections.abc import Iterator

import numpy as np
import skills

from lfl_jax import adapters
from lfl_jax.core.types import Batch

ORDER = ("caps", "next", "copy")
IDS = {"caps": 0, "next": 1, "copy": -1}


def routed(rows: int = 36) -> Iterator[Batch]:
    """Batches of all skills, with the id of every row's adapter."""
    names = [ORDER[i % len(ORDER)] for i in range(rows)]
    routing = np.array([[IDS[name] for name in names]])  # (1, B): of one microbatch
    return ({**skills.batch(names, seed), "routing": routing} for seed in range(10**6))


def main() -> list[tuple[str, str, str]]:
    """(adapter, prompt, answer) of one batch that was decoded together."""
    params = skills.base()
    both = adapters.stack(skills.fresh(seed=1), skills.fresh(seed=2))
    _, both = skills.learn(params, both, ("adapter/.*",), routed())

    # every prompt with every adapter
    prompts = [f"{skill} head" for skill in ORDER for _ in ORDER]
    chosen = [adapter for _ in ORDER for adapter in ORDER]
    routing = [IDS[name] for name in chosen]
    answers = skills.answers(params, both, [f"{text}\n" for text in prompts], routing)

    names = ["base" if name == "copy" else name for name in chosen]
    return list(zip(names, prompts, answers, strict=True))


if __name__ == "__main__":
    print(f"{'adapter':9}{'prompt':12}answer")
    for adapter, text, answer in main():
        print(f"{adapter:9}{text:12}{answer}")
