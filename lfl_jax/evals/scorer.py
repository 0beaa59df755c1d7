"""The scorer of a model on devices: compiled scoring and decoding behind two functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lfl_jax import losses, sample
from lfl_jax.adapters import member_count, precompute_for_inference
from lfl_jax.analysis import divergence
from lfl_jax.core import hosts, tree
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import Batch, Params
from lfl_jax.evals.batching import Rows
from lfl_jax.evals.task import Scorer
from lfl_jax.model import Model
from lfl_jax.models.config import ModelConfig
from lfl_jax.text.stops import contains_stop
from lfl_jax.text.tokenizers import Tokenizer

# The arrays of `batching.arrange` that the model reads.
MODEL_INPUTS = ("tokens", "targets", "weights", "segment_ids", "branch_ids", "positions")

BASE_SEED = 0  # of what a base samples for its comparison with a tuned model


# One program for every task, base and tuned model: their shapes are the same, only arrays differ.
@partial(jax.jit, static_argnames=("cfg", "rules"))
def _score_rows(
    model: Model,
    rows: Batch,
    routing: Float[Array, "B M"] | None,
    *,
    cfg: ModelConfig,
    rules: Rules,
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
    return losses.per_token(model.params, model.adapter, rows, cfg, routing=routing, rules=rules)


def build(
    model: Model,
    cfg: ModelConfig,
    tokenizer: Tokenizer,
    rules: Rules,
    tag: str,
    *,
    adapted: bool = True,
    base_params: Callable[[], Params] | None = None,
    generate_rows: int = 16,
    seed: int = 0,
) -> Scorer:
    """The scorer of a model, which reads these very weights; only decoding copies some, on a CPU.

    adapted=False is the base: the same compiled program with routing weights 0. base_params: the
    base's parameters where the model's are others; called once, by the first batch that compares
    the two. generate_rows: prompts of a generation batch. seed: of sampled texts.
    """
    members = member_count(model.adapter)
    # For example DoRA's column norms, which do not change between batches.
    if members:
        model = model.replace(adapter=precompute_for_inference(model.adapter, model.params))
    compiled = _Compiled(
        model, base_params, cfg, tokenizer, rules, members, adapted, generate_rows, seed
    )
    return Scorer(
        tag,
        tokenizer,
        compiled.score,
        compiled.generate,
        compiled.diverge,
        compiled.sample_base,
    )


@dataclass(frozen=True)
class _Compiled:
    """A model and what its programs are compiled for.

    members: adapters of the mix, which are the columns of its routing weights.
    """

    model: Model
    base_params: Callable[[], Params] | None
    cfg: ModelConfig
    tokenizer: Tokenizer
    rules: Rules
    members: int
    adapted: bool
    generate_rows: int
    seed: int

    def routing(self, rows: int, adapted: bool | None = None) -> Float[Array, "B M"] | None:
        """Routing weights of this many rows: all 1, or all 0 for the base."""
        adapted = self.adapted if adapted is None else adapted
        # 0 leaves the model's outputs bit-exact, so an identity adapter forgets exactly nothing.
        return jnp.full((rows, self.members), float(adapted)) if self.members else None

    @cached_property
    def base(self) -> Model:
        """The base, which keeps the model's adapter, for routing weights of 0."""
        # With the adapter, both models have one structure and so one compiled program.
        return self.model.replace(params=self.base_params()) if self.base_params else self.model

    @cached_property
    def decoded_model(self) -> Model:
        """The model as `sample.generate` reads it fastest."""
        return self._for_decoding(self.model)

    @cached_property
    def decoded_base(self) -> Model:
        """The base, likewise; the model's own arrays where they are the base's."""
        return self._for_decoding(self.base) if self.base_params else self.decoded_model

    def _for_decoding(self, model: Model) -> Model:
        # Layers on several devices, and on an accelerator, would be copied whole.
        on_cpu = all(map(tree.in_cpu_memory, jax.tree.leaves(model)))
        return sample.unstacked(model, self.cfg.n_layers) if on_cpu else model

    def score(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """`Scorer.score`."""
        batch, routing = self._on_devices(rows), self.routing(len(rows["tokens"]))
        nll, greedy = _score_rows(self.model, batch, routing, cfg=self.cfg, rules=self.rules)
        return hosts.to_numpy(nll), hosts.to_numpy(greedy)

    def diverge(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """`Scorer.diverge`."""
        batch, count = self._on_devices(rows), len(rows["tokens"])
        base = divergence.Variant(self.base, self.routing(count, adapted=False))
        model = divergence.Variant(self.model, self.routing(count))
        kl = divergence.of_variants(base, model, batch, self.cfg, self.rules)
        return hosts.to_numpy(kl.forward), hosts.to_numpy(kl.reverse)

    def _on_devices(self, rows: Rows) -> Batch:
        """What the model reads of the rows."""
        batch = {}
        for name in MODEL_INPUTS:
            sharding = self.rules.sharding(("batch", "time"), rows[name].shape)
            batch[name] = hosts.to_devices(rows[name], sharding)
        return batch

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
        """`Scorer.generate`."""
        rows = self._decode(
            self.decoded_model,
            prompts,
            self.routing(self.generate_rows),
            example_ids,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=self.seed,
            stop=contains_stop(self.tokenizer, stop),
        )
        return [self._text(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]

    def sample_base(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        example_ids: Sequence[int],
    ) -> list[list[int]]:
        """`Scorer.sample_base`."""
        # Not by the run's own seed: runs of one base are compared on the same texts.
        return self._decode(
            self.decoded_base,
            prompts,
            self.routing(self.generate_rows, adapted=False),
            example_ids,
            max_new_tokens=max_new_tokens,
            temperature=1.0,
            seed=BASE_SEED,
        )

    def _decode(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        routing: Float[Array, "B M"] | None,
        example_ids: Sequence[int],
        **options: Any,
    ) -> list[list[int]]:
        """The new ids of each prompt; options: those of `sample.generate`."""
        # Batches of one shape are one compiled program: copies of the first prompt fill this one.
        missing = self.generate_rows - len(prompts)
        rows = sample.generate(
            model,
            [*prompts, *[prompts[0]] * missing],
            self.cfg,
            eos_id=self.tokenizer.eos_id,
            ids=[*example_ids, *[example_ids[0]] * missing],
            routing=routing,
            **options,
        )
        return rows[: len(prompts)]

    def _text(self, prompt: Sequence[int], row: list[int]) -> str:
        """The new text, which ends with that of EOS where the model emitted it."""
        emitted_eos = row[-1:] == [self.tokenizer.eos_id]
        # A tokenizer may drop the first space of a text, so the prompt is decoded along with it.
        return self.tokenizer.decode_continuation(prompt, row) + self.tokenizer.eos * emitted_eos
