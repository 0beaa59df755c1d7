"""The three kinds of evaluation, what they read, and the model they are given: data and functions, no jax."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lfl_jax.assets import readers
from lfl_jax.data.examples import Example
from lfl_jax.evals.plan import Score, Scored
from lfl_jax.evals.requests import Request
from lfl_jax.evals.sandbox import Program, Verdict
from lfl_jax.evals.stats import Estimate
from lfl_jax.text.chat import TEMPLATES, Template
from lfl_jax.text.tokenizers import Tokenizer

Record = dict[str, Any]


def head(item: Any) -> Record:
    """How the record of a generated answer begins: the item's id and cluster, and a digest of its prompt."""
    digest = hashlib.sha256(item.prompt.encode()).hexdigest()[:16]
    return {"id": item.id, "cluster": item.cluster, "prompt_sha256": digest}


@dataclass(frozen=True)
class Model:
    """A model as evaluations see it; `tag` names its weights (base, or a run and step) in the records.

    score(rows) -> nll (B, T) float32 and greedy (B, T) bool, whether the target is the argmax; both are read
    where rows["weights"] > 0. A row is one of `evals.plan`.
    generate(prompts, *, max_new_tokens, stop, example_ids, temperature=0, top_p=1) -> the new text of each prompt
    (token ids), with the text of EOS at its end where the model ended it, and no other special token; it may go on
    after a stop text, but need not.
    """

    tag: str
    score: Score
    generate: Callable[..., list[str]]


@dataclass(frozen=True)
class Inputs:
    """What tasks read: fetched documents by asset name, and what the run itself supplies.

    problems: {group: held-out examples to answer}, a group each for templates seen and unseen in training.
    target: held-out examples whose responses are scored. template: the format the model is trained with.
    source_text: general text, one document each; None = the fetched default.
    shots_from: "fixed" (the first `shots` of `fixed_shots`, (question, answer) pairs that come with GSM8K) or
    "lm_eval" (the harness's draw from the GSM8K training split). worked: training examples to show in prompts.
    alone: items without the examples that a task shows before them, as decontamination looks at them.
    """

    docs: Callable[[str], list[dict]] = readers.docs
    fixed_shots: Callable[[], list[tuple[str, str]]] = readers.gsm8k_cot_shots
    problems: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    target: Sequence[Example] = ()
    template: Template = TEMPLATES["plain"]
    source_text: Sequence[str] | None = None
    shots: int = 0
    shots_from: str = "fixed"
    worked: Callable[[], Sequence[Example]] = tuple
    alone: bool = False

    def before(self, shown: str) -> str:
        """What stands before an item: the text, or nothing where items are alone."""
        return "" if self.alone else shown


@dataclass(frozen=True)
class Summary:
    """Means over items with their errors, the score of guessing where there is one, and derived figures."""

    metrics: dict[str, Estimate]
    chance: float | None = None
    derived: dict[str, float] = field(default_factory=dict)


def nothing_missing() -> None:
    """For tasks that need nothing but the package."""


def no_details(inputs: Inputs) -> dict[str, Any]:
    """For tasks whose items say everything."""
    return {}


@dataclass(frozen=True)
class Scoring:
    """A task decided by log-probabilities. Items are dataclasses of text with a unique `id` and a `cluster`.

    Raise `version` when the task's meaning changes: older records are then not taken for its own.
    requests: an item's requests, none of more than the given number of input tokens.
    details: what of the inputs the records' settings should name.
    in_turns: kinds of items take turns, so a limit takes the first ones, however items are picked otherwise.
    check: raises UserError where the task cannot run here; called before anything is computed.
    """

    name: str
    version: int
    items: Callable[[Inputs], Sequence[Any]]
    requests: Callable[[Any, Tokenizer, int], list[Request]]
    record: Callable[[Any, list[Scored]], Record]
    summarise: Callable[[Sequence[Record]], Summary]
    details: Callable[[Inputs], dict[str, Any]] = no_details
    in_turns: bool = False
    check: Callable[[], None] = nothing_missing


@dataclass(frozen=True)
class Generation:
    """A task decided by greedily generated text, ended by `stop` texts or EOS. Items also have a `prompt`."""

    name: str
    version: int
    stop: tuple[str, ...]
    items: Callable[[Inputs], Sequence[Any]]
    record: Callable[[Any, str], Record]
    summarise: Callable[[Sequence[Record]], Summary]
    details: Callable[[Inputs], dict[str, Any]] = no_details
    in_turns: bool = False
    check: Callable[[], None] = nothing_missing


@dataclass(frozen=True)
class Coding:
    """A task decided by running generated programs: several texts per item, drawn at a temperature.

    extract(item, text): the code that a text makes. program(item, code): that code with the item's tests, for
    `evals.sandbox`. record(item, texts, verdicts): one record of all samples.
    """

    name: str
    version: int
    stop: tuple[str, ...]
    items: Callable[[Inputs], Sequence[Any]]
    extract: Callable[[Any, str], str]
    program: Callable[[Any, str], Program]
    record: Callable[[Any, Sequence[str], Sequence[Verdict]], Record]
    summarise: Callable[[Sequence[Record]], Summary]
    details: Callable[[Inputs], dict[str, Any]] = no_details
    in_turns: bool = False
    check: Callable[[], None] = nothing_missing


Task = Scoring | Generation | Coding
