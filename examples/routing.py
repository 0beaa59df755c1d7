"""One batch, several adapters: each example is sent to its own, in training and in decoding.

    python examples/routing.py

A routing of integers (B,) names the adapter that example b uses, -1 being the base alone; factors
(B, M) would say how much it uses of each. The two adapters train together, in one forward pass per
batch, yet neither sees the other's examples.
"""

from collections.abc import Iterator

import numpy as np
import skills

from lfl_jax import adapters

ORDER = ("caps", "next", "copy")
IDS = {"caps": 0, "next": 1, "copy": -1}


def routed(rows: int = 36) -> Iterator[dict]:
    """Batches of all skills, with the routing that sends every row to its adapter."""
    names = [ORDER[i % len(ORDER)] for i in range(rows)]
    routing = np.array([[IDS[name] for name in names]])
    return ({**skills.batch(names, seed), "routing": routing} for seed in range(10**6))


def main() -> list[tuple[str, str, str]]:
    """(adapter, prompt, answer) of one batch that was decoded together."""
    params = skills.base()
    both = adapters.stack(skills.fresh(seed=1), skills.fresh(seed=2))
    _, both = skills.learn(
        params, both, ("adapter/.*",), routed(), steps=skills.STEPS, lr=skills.LR
    )
    asked = [
        (to, prompt)
        for prompt in ("caps head\n", "next head\n", "copy head\n")
        for to in ("caps", "next", "copy")
    ]
    found = skills.answers(
        params, both, [prompt for _, prompt in asked], [IDS[to] for to, _ in asked]
    )
    return [
        ({"copy": "base"}.get(to, to), prompt.strip(), text)
        for (to, prompt), text in zip(asked, found, strict=True)
    ]


if __name__ == "__main__":
    print(f"{'adapter':9}{'prompt':12}answer")
    for adapter, prompt, answer in main():
        print(f"{adapter:9}{prompt:12}{answer}")
