"""A model on devices as evaluations see it: compiled scoring and decoding behind two plain functions."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax import losses, sample
from lfl_jax.adapters import fixed, member_count
from lfl_jax.core.sharding import Rules
from lfl_jax.evals import base
from lfl_jax.evals.plan import Rows
from lfl_jax.models.config import ModelConfig
from lfl_jax.text.stops import said
from lfl_jax.text.tokenizers import Tokenizer

INPUTS = ("tokens", "targets", "weights", "segment_ids", "branch_ids", "positions")


@partial(jax.jit, static_argnames=("cfg", "rules"))
def _per_token(model: dict, rows: Any, gate: Any, *, cfg: ModelConfig, rules: Rules) -> tuple[Any, Any]:
    return losses.per_token(model["params"], model["adapter"], rows, cfg, gate=gate, rules=rules)


def build(
    model: dict,
    cfg: ModelConfig,
    tokenizer: Tokenizer,
    rules: Rules,
    tag: str,
    *,
    adapted: bool = True,
    generate_rows: int = 16,
    seed: int = 0,
) -> base.Model:
    """The model for `evaluate`, which scores and decodes from these very weights: nothing is copied.

    adapted=False is the base: the same compiled program with the gate at 0.
    """
    count = member_count(model["adapter"])
    model = model | {"adapter": fixed(model["adapter"], model["params"]) if count else model["adapter"]}

    def gate(rows: int) -> Any:
        return jnp.full((rows, count), float(adapted)) if count else None

    def score(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        placed = {k: jax.device_put(rows[k], rules.sharding(("batch", "time"), rows[k].shape)) for k in INPUTS}
        nll, greedy = _per_token(model, placed, gate(len(rows["tokens"])), cfg=cfg, rules=rules)
        return np.asarray(nll), np.asarray(greedy)

    def generate(
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop: Sequence[str],
        example_ids: Sequence[int],
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> list[str]:
        missing = generate_rows - len(prompts)  # a batch of one shape is one compiled program
        rows = sample.generate(
            model,
            [*prompts, *[prompts[0]] * missing],
            cfg,
            max_new_tokens=max_new_tokens,
            eos_id=tokenizer.eos_id,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            ids=[*example_ids, *[example_ids[0]] * missing],
            gate=gate(generate_rows),
            stop=said(tokenizer, stop),
        )
        ended = [row[-1:] == [tokenizer.eos_id] for row in rows]
        return [tokenizer.decode(row) + tokenizer.eos * end for row, end in zip(rows, ended, strict=True)][
            : len(prompts)
        ]

    return base.Model(tag=tag, score=score, generate=generate)
