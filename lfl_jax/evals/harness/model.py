"""A scorer as lm-evaluation-harness's model: the methods of lm_eval.api.model.TemplateLM.

Scores come from the same plan and compiled program as our own evaluations, texts from the same
decoding.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lfl_jax.data.formatting import prompt_ids
from lfl_jax.errors import UserError
from lfl_jax.evals import records
from lfl_jax.evals.batching import Scored, plan, score_items
from lfl_jax.evals.harness.answers import Answers
from lfl_jax.evals.harness.decoding import Decoding
from lfl_jax.evals.harness.grouping import group_by_context
from lfl_jax.evals.requests import Request, prefix_id, rolling, truncate
from lfl_jax.evals.run import PROBE
from lfl_jax.evals.settings import Settings
from lfl_jax.evals.task import Scorer
from lfl_jax.io.progress import progress
from lfl_jax.text.jinja import render
from lfl_jax.text.stops import truncate_at_stop
from lfl_jax.text.tokenizers import Tokenizer


@runtime_checkable
class Instance(Protocol):
    """A request of the harness (lm_eval.api.instance.Instance).

    args: (context, continuation), (text,) or (context, generation_kwargs), by method.
    """

    args: tuple


@dataclass(frozen=True)
class _Generation:
    """A prompt as ids, how to continue it, and the key of the answer."""

    prompt: list[int]
    decoding: Decoding
    key: str


class HarnessModel:
    """The methods that the harness calls, answered by a scorer.

    settings.length is the number of input tokens of what is scored, settings.window that of prompt
    and answer together. `truncated` counts requests that lost the beginning of their context.
    """

    # The harness asks for it: encoder-decoder models encode pairs in another way.
    backend = "causal"

    def __init__(self, scorer: Scorer, settings: Settings, answers: Answers) -> None:
        super().__init__()
        self.scorer, self.settings, self.answers = scorer, settings, answers
        self.tokenizer = scorer.tokenizer
        self.truncated = 0

    # What the harness asks about the model.

    @property
    def eot_token_id(self) -> int:
        """EOS."""
        return self.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """The token that stands in for an empty context."""
        return prefix_id(self.tokenizer)

    @property
    def max_length(self) -> int:
        """Input tokens of a request to score."""
        return self.settings.length

    @property
    def max_gen_toks(self) -> int:
        """Generated tokens where a task names no number."""
        return self.settings.max_new_tokens

    @property
    def tokenizer_name(self) -> str:
        """A name that differs between tokenizers and chat templates; the harness caches by it."""
        return f"lfl_jax-{fingerprint(self.tokenizer)}"

    # Text to ids.

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **unused: Any
    ) -> list[int]:
        """Ids; BOS comes first by flag, or by default where the tokenizer adds one.

        By default it is not added to a text that begins with it.
        """
        if add_special_tokens is None:
            return prompt_ids(string, self.tokenizer)
        bos = [self.tokenizer.bos_id] if add_special_tokens and self.tokenizer.add_bos else []
        return [*bos, *self.tokenizer.encode(string)]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The Jinja source of the tokenizer's template, None for False; UserError without one."""
        if chat_template is False:
            return None
        if self.tokenizer.chat_template is None:
            raise UserError("apply_chat_template: this model's tokenizer carries no chat template")
        if isinstance(chat_template, str):
            raise UserError(
                f"apply_chat_template={chat_template!r}: this tokenizer has one template; give True"
            )
        return self.tokenizer.chat_template

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text.

        Without a generation prompt the last message is left open, to be continued.
        """
        return render(self.chat_template(True), chat_history, add_generation_prompt, self.tokenizer)

    # Log-probabilities.

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """(log-probability, greedy) of each; TemplateLM encodes context and continuation."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(self, requests: list, **unused: Any) -> list[tuple[float, bool]]:
        # TemplateLM calls this with ((context, continuation), context ids, continuation ids).
        length = self.settings.length
        fitting = []
        for _, context, continuation in requests:
            fitting.append(truncate(Request(tuple(context), tuple(continuation)), length))
        self.truncated += sum(request.truncated for request in fitting)
        # Grouping keeps the order, in which the harness expects the results.
        scored = self._scored(group_by_context(fitting, length))
        return [(s.ll, s.greedy) for group in scored for s in group]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Log-probability of whole texts, in windows."""
        prefix, length = self.prefix_token_id, self.settings.length
        ids = [self.tok_encode(request.args[0]) for request in requests]
        windows = [rolling(of_text, prefix, length) for of_text in ids]
        # An empty text has no window, and the log-probability 0.
        scored = iter(self._scored([of_text for of_text in windows if of_text]))
        return [_total(next(scored)) if of_text else 0.0 for of_text in windows]

    def _scored(self, items: list[list[Request]]) -> list[list[Scored]]:
        """Scores of every item's requests; a batch whose items are all answered is left out."""
        keys = [_score_key(item) for item in items]
        planned = plan(items, self.settings.rows, self.settings.length)
        done = np.array([key in self.answers for key in keys])
        with progress(int(planned.figures["batches"]), "lm-eval: scoring") as advance:
            for batch in score_items(planned, self.scorer.score, done):
                new = {}
                for i, scores in batch:
                    new[keys[i]] = [asdict(score) for score in scores]
                self.answers.add(new)
                advance()
        # From the answers, not from the batches: some were answered before a restart.
        return [_from_json(self.answers[key]) for key in keys]

    # Texts.

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The text that follows each prompt, up to the first stop.

        Repeats of a sampled request are drawn again.
        """
        prompts = [self._prompt(*request.args) for request in requests]
        generations = _with_keys(prompts)
        batches = self._batches(generations)
        with progress(len(batches), "lm-eval: generating") as advance:
            for batch in batches:
                # Computed whole or not at all: a restart computes what one start would.
                if any(one.key not in self.answers for one in batch):
                    self._answer(batch)
                advance()
        return [self.answers[one.key] for one in generations]

    def _prompt(self, context: str, gen_kwargs: dict[str, Any]) -> tuple[list[int], Decoding]:
        """Ids that leave room for the answer, and the decoding."""
        decoding = Decoding.from_kwargs(gen_kwargs, self.max_gen_toks, self.tokenizer.eos)
        room = self.settings.window - decoding.max_new_tokens
        if room < 1:
            raise UserError(
                f"max_gen_toks={decoding.max_new_tokens} leaves no room in a context of"
                f" {self.settings.window}"
            )
        # The end of a prompt has the question, so its beginning is what is cut.
        ids = self.tok_encode(context)
        self.truncated += len(ids) > room
        return ids[-room:], decoding

    def _batches(self, generations: Sequence[_Generation]) -> list[list[_Generation]]:
        """Batches of one decoding each, the longest prompts first."""
        by_decoding: dict[Decoding, list[_Generation]] = {}
        for generation in generations:
            by_decoding.setdefault(generation.decoding, []).append(generation)

        # Prompts of one batch are padded to the longest, so they should have about one length.
        rows, batches = self.settings.generate_rows, []
        for same in by_decoding.values():
            same = sorted(same, key=lambda generation: -len(generation.prompt))
            batches += [same[start : start + rows] for start in range(0, len(same), rows)]
        return batches

    def _answer(self, batch: Sequence[_Generation]) -> None:
        decoding = batch[0].decoding
        sampling = {"temperature": decoding.temperature, "top_p": decoding.top_p}
        # From the key, so that a request's draws depend on it alone.
        example_ids = [int(one.key[:7], 16) for one in batch]
        texts = self.scorer.generate(
            [one.prompt for one in batch],
            max_new_tokens=decoding.max_new_tokens,
            stop=decoding.stop,
            example_ids=example_ids,
            **(sampling if decoding.temperature else {}),
        )
        new = {}
        for one, text in zip(batch, texts, strict=True):
            if one.key not in self.answers:
                new[one.key] = truncate_at_stop(text, decoding.stop)
        self.answers.add(new)


def fingerprint(tokenizer: Tokenizer) -> str:
    """A digest that differs between tokenizers and chat templates."""
    special = (
        tokenizer.vocab_size,
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.add_bos,
        tokenizer.chat_template,
    )
    return records.digest([*special, tokenizer.encode(PROBE)])


def _score_key(item: Sequence[Request]) -> str:
    # Of all requests of a row together: they are scored, and answered, as one.
    return records.digest(["score", [[r.context, r.continuation] for r in item]])


def _from_json(scores: list[dict[str, Any]]) -> list[Scored]:
    return [Scored(**score) for score in scores]


def _total(scores: list[Scored]) -> float:
    return math.fsum(score.ll for score in scores)


def _with_keys(prompts: Sequence[tuple[list[int], Decoding]]) -> list[_Generation]:
    """Generations with their keys: equal greedy requests share one, equal sampled ones do not."""
    generations = []
    repeats: dict[str, int] = {}
    for ids, decoding in prompts:
        key = records.digest(["generate", ids, asdict(decoding)])
        repeats[key] = repeats.get(key, -1) + 1
        if decoding.temperature:
            key = records.digest([key, repeats[key]])
        generations.append(_Generation(ids, decoding, key))
    return generations
