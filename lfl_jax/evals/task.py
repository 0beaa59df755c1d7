"""An evaluation task, its three methods, what it reads, and the model it is given: data and
functions, no jax."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lfl_jax.assets import readers
from lfl_jax.data.examples import Example
from lfl_jax.evals.batching import Score, Scored
from lfl_jax.evals.metrics import Measured, Metric, Record, emitted_eos
from lfl_jax.evals.requests import Request
from lfl_jax.evals.sandbox import Program, Verdict
from lfl_jax.text.chat import TEMPLATES, Template
from lfl_jax.text.tokenizers import Tokenizer


def head(item: Any) -> Record:
    """How the record of a generated answer begins: the item's id and cluster, and a digest of its
    prompt."""
    digest = hashlib.sha256(item.prompt.encode()).hexdigest()[:16]
    return {"id": item.id, "cluster": item.cluster, "prompt_sha256": digest}


@dataclass(frozen=True)
class Model:
    """A model as evaluations see it; `tag` names its weights (base, or a run and step) in the
    records.

    score(rows) -> nll (B, T) float32 and greedy (B, T) bool, whether the target is the argmax; both
    are read where rows["weights"] > 0. A row is one of `evals.plan`.
    generate(prompts, *, max_new_tokens, stop, example_ids, temperature=0, top_p=1) -> the new text
    of each prompt (token ids), with the text of EOS at its end where the model ended it, and no
    other special token; it may go on after a stop text, but need not.
    """

    tag: str
    score: Score
    generate: Callable[..., list[str]]


@dataclass(frozen=True)
class Inputs:
    """What tasks read: fetched documents by asset name, and what the run itself supplies.

    problems: {group: held-out examples to answer}, a group each for templates seen and unseen in
    training.
    target: held-out examples whose responses are scored. template: the format the model is trained
    with.
    source_text: general text, one document each; None = the fetched default.
    shots_from: "fixed" (the first `shots` of `fixed_shots`, (question, answer) pairs that come with
    GSM8K) or "lm_eval" (the harness's draw from the GSM8K training split). worked: training
    examples to show in prompts.
    alone: items without the examples that a task shows before them, as decontamination looks at
    them.
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


def nothing_missing() -> None:
    """For tasks that need nothing but the package."""


def meaningful(inputs: Inputs) -> str:
    """For tasks whose score means something whatever they are given."""
    return ""


def no_details(inputs: Inputs) -> dict[str, Any]:
    """For tasks whose items say everything."""
    return {}


@dataclass(frozen=True)
class Likelihood:
    """Decided by log-probabilities of given texts.

    requests: an item's requests, none of more than the given number of input tokens. record: from
    their scores.
    """

    requests: Callable[[Any, Tokenizer, int], list[Request]]
    record: Callable[[Any, list[Scored]], Record]
    metrics: ClassVar[tuple[Metric, ...]] = ()


@dataclass(frozen=True)
class Generate:
    """Decided by greedily generated text, ended by `stop` texts or EOS. Items also have a
    `prompt`."""

    stop: tuple[str, ...]
    record: Callable[[Any, str], Record]
    metrics: ClassVar[tuple[Metric, ...]] = (emitted_eos(),)


@dataclass(frozen=True)
class Execute:
    """Decided by running generated programs: several texts per item, drawn at a temperature. Items
    have a `prompt`.

    extract(item, text): the code that a text makes. program(item, code): that code with the item's
    tests, for `evals.sandbox`. record(item, texts, verdicts): one record of all samples.
    """

    stop: tuple[str, ...]
    extract: Callable[[Any, str], str]
    program: Callable[[Any, str], Program]
    record: Callable[[Any, Sequence[str], Sequence[Verdict]], Record]
    metrics: ClassVar[tuple[Metric, ...]] = (emitted_eos(),)


Method = Likelihood | Generate | Execute


@dataclass(frozen=True)
class Task:
    """One evaluation: items, the method that turns them into records, and the metrics that are read
    from records.

    Items are dataclasses of text with a unique `id` and a `cluster` (items that are not independent
    share theirs). Raise `version` when the task's meaning changes: older records are then not taken
    for its own.
    label: in tables, before a metric's. metrics: the first is the task's main one.
    details: what of the inputs the records' settings should name.
    interleaved: kinds of items take turns, so a limit takes the first ones, however items are
    picked otherwise.
    check: raises UserError where the task cannot run here; called before anything is computed.
    reads_source: whether its items are held-out examples of the training source.
    meaningless: why a score on these inputs would mean nothing, so that it is left out; "" where it
    means something.
    """

    name: str
    version: int
    label: str
    items: Callable[[Inputs], Sequence[Any]]
    method: Method
    metrics: tuple[Metric, ...]
    details: Callable[[Inputs], dict[str, Any]] = no_details
    interleaved: bool = False
    check: Callable[[], None] = nothing_missing
    reads_source: bool = False
    meaningless: Callable[[Inputs], str] = meaningful

    def measure(self, records: Sequence[Record]) -> dict[str, Measured]:
        """{metric: its values and mean} of these records, the method's own metrics last."""
        declared = (*self.metrics, *self.method.metrics)
        found = [measured for metric in declared for measured in metric.measure(records)]
        return {measured.metric.name: measured for measured in found}
