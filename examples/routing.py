"""One batch, several adapters: each example is sent to its own, in training and in decoding.

    python examples/routing.py

A gate (B, M) says how much example b uses of adapter m; `route` makes it from numbers, -1 being the base alone. The
two adapters train together, in one forward pass per batch, yet neither sees the other's examples.
"""

from collections.abc import Iterator

import skills

from lfl_jax import adapters

ORDER = ("caps", "next", "copy")
IDS = {"caps": 0, "next": 1, "copy": -1}


def routed(rows: int = 36) -> Iterator[dict]:
    """Batches of all skills, with the gate that sends every row to its adapter."""
    names = [ORDER[i % len(ORDER)] for i in range(rows)]
    gate = adapters.route(skills.np.array([IDS[name] for name in names]), members=2)[None]
    return ({**skills.batch(names, seed), "gate": gate} for seed in range(10**6))


def main() -> list[tuple[str, str, str]]:
    """(adapter, prompt, answer) of one batch that was decoded together."""
    params = skills.base()
    both = adapters.stack(skills.fresh(seed=1), skills.fresh(seed=2))
    _, both = skills.learn(params, both, ("adapter/.*",), routed(), steps=skills.STEPS, lr=skills.LR)
    asked = [
        (to, prompt) for prompt in ("caps head\n", "next head\n", "copy head\n") for to in ("caps", "next", "copy")
    ]
    gate = adapters.route(skills.np.array([IDS[to] for to, _ in asked]), members=2)
    found = skills.answers(params, both, [prompt for _, prompt in asked], gate)
    return [
        ({"copy": "base"}.get(to, to), prompt.strip(), text) for (to, prompt), text in zip(asked, found, strict=True)
    ]


if __name__ == "__main__":
    print(f"{'adapter':9}{'prompt':12}answer")
    for adapter, prompt, answer in main():
        print(f"{adapter:9}{prompt:12}{answer}")
