"""A model on devices as evaluations see it: compiled scoring and decoding behind two plain
functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax import losses, sample
from lfl_jax.adapters import member_count, precompute_for_inference
from lfl_jax.core import hosts
from lfl_jax.core.sharding import Rules
from lfl_jax.evals.batching import Rows
from lfl_jax.evals.task import Scorer
from lfl_jax.model import Model
from lfl_jax.models.config import ModelConfig
from lfl_jax.text.stops import contains_stop
from lfl_jax.text.tokenizers import Tokenizer

INPUTS = ("tokens", "targets", "weights", "segment_ids", "branch_ids", "positions")


@partial(jax.jit, static_argnames=("cfg", "rules"))
def _per_token(
    model: Model, rows: Any, routing: Any, *, cfg: ModelConfig, rules: Rules
) -> tuple[Any, Any]:
    return losses.per_token(model.params, model.adapter, rows, cfg, routing=routing, rules=rules)


def build(
    model: Model,
    cfg: ModelConfig,
    tokenizer: Tokenizer,
    rules: Rules,
    tag: str,
    *,
    adapted: bool = True,
    generate_rows: int = 16,
    seed: int = 0,
) -> Scorer:
    """The model for `evaluate`, which scores and decodes from these very weights: nothing is
    copied.

    adapted=False is the base: the same compiled program with the routing at 0.
    """
    count = member_count(model.adapter)
    if count:
        model = model.replace(adapter=precompute_for_inference(model.adapter, model.params))
    compiled = _Compiled(model, cfg, tokenizer, rules, count, adapted, generate_rows, seed)
    return Scorer(tag, tokenizer, compiled.score, compiled.generate)


@dataclass(frozen=True)
class _Compiled:
    """A model and what its programs are compiled for; members: columns of its routing weights."""

    model: Model
    cfg: ModelConfig
    tokenizer: Tokenizer
    rules: Rules
    members: int
    adapted: bool
    generate_rows: int
    seed: int

    def routing(self, rows: int) -> Any:
        """All ones, or all zeros for the base."""
        return jnp.full((rows, self.members), float(self.adapted)) if self.members else None

    def score(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """`Scorer.score`."""
        placed = {
            k: hosts.place(rows[k], self.rules.sharding(("batch", "time"), rows[k].shape))
            for k in INPUTS
        }
        routing = self.routing(len(rows["tokens"]))
        nll, greedy = _per_token(self.model, placed, routing, cfg=self.cfg, rules=self.rules)
        return hosts.whole(nll), hosts.whole(greedy)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop: Sequence[str],
        example_ids: Sequence[int],
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> list[str]:
        """`Scorer.generate`. A batch of one shape is one program: it is filled up with the
        first prompt."""
        missing = self.generate_rows - len(prompts)
        rows = sample.generate(
            self.model,
            [*prompts, *[prompts[0]] * missing],
            self.cfg,
            max_new_tokens=max_new_tokens,
            eos_id=self.tokenizer.eos_id,
            temperature=temperature,
            top_p=top_p,
            seed=self.seed,
            ids=[*example_ids, *[example_ids[0]] * missing],
            routing=self.routing(self.generate_rows),
            stop=contains_stop(self.tokenizer, stop),
        )
        return [
            self._text(prompt, row)
            for prompt, row in zip(prompts, rows[: len(prompts)], strict=True)
        ]

    def _text(self, prompt: Sequence[int], row: list[int]) -> str:
        """What follows the prompt, with the text of EOS at its end where the model ended it."""
        ended = row[-1:] == [self.tokenizer.eos_id]
        return self.tokenizer.decode_continuation(prompt, row) + self.tokenizer.eos * ended
