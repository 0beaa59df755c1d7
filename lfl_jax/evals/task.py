"""An evaluation task: its items, its method, its metrics. Data and functions, no jax."""

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from lfl_jax.assets import readers
from lfl_jax.data.examples import Example
from lfl_jax.errors import UserError
from lfl_jax.evals.batching import Diverged, Score, Scored
from lfl_jax.evals.metrics import Measured, Metric, Record, emitted_eos
from lfl_jax.evals.requests import Request
from lfl_jax.evals.sandbox import Program, Verdict
from lfl_jax.text.chat import TEMPLATES, Template
from lfl_jax.text.tokenizers import Tokenizer


# The protocols are checked at run time in tests, as every annotation is.
@runtime_checkable
class Item(Protocol):
    """One question of a task: a frozen dataclass of text.

    `id` is unique within the task; items that are not independent share their `cluster`.
    """

    id: str
    cluster: str


@runtime_checkable
class PromptedItem(Item, Protocol):
    """An item whose `prompt` the model continues."""

    prompt: str


def common_fields(item: PromptedItem) -> Record:
    """The fields of every generated answer's record: id, cluster, a digest of the prompt."""
    # A digest, since few-shot prompts are long and mostly the same.
    digest = hashlib.sha256(item.prompt.encode()).hexdigest()[:16]
    return {"id": item.id, "cluster": item.cluster, "prompt_sha256": digest}


@runtime_checkable
class GenerateTexts(Protocol):
    """The second function of a `Scorer`."""

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop: Sequence[str],
        example_ids: Sequence[int],
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> list[str]:
        """The new text of each prompt (token ids); temperature 0 is greedy.

        A text ends with that of EOS where the model emitted it, and has no other special token; it
        may continue after a stop text. example_ids: a number per prompt, on which alone its random
        draws depend.
        """


@runtime_checkable
class SampleBase(Protocol):
    """The fourth function of a `Scorer`."""

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        example_ids: Sequence[int],
    ) -> list[list[int]]:
        """The new token ids of each prompt, with EOS where the base emitted it.

        Drawn from the base's own distribution; what is drawn depends on the prompt and its number
        in example_ids alone, so that every model of one base is given the same.
        """


@dataclass(frozen=True)
class Scorer:
    """A model with its tokenizer, behind functions; evaluations know no more of it.

    tag: names the weights (the base, or a run and step) in the records. score(rows): nll (B, T)
    float32, and greedy (B, T) bool, true where the target is the argmax; both are read where
    rows["weights"] > 0. `batching.arrange` makes the rows. diverge(rows): KL(base || model) and
    KL(model || base), (B, T) float32 in nats. sample_base(prompts): what the base continues them
    with. Both are None for a model without a base to compare it with.
    """

    tag: str
    tokenizer: Tokenizer
    score: Score
    generate: GenerateTexts
    diverge: Score | None = None
    sample_base: SampleBase | None = None


@dataclass(frozen=True)
class Inputs:
    """The data that tasks read: fetched documents by asset name, and data of the run itself.

    problems: {group: held-out examples to answer}, one group for templates seen in training, one
    for unseen ones. target: held-out examples whose responses are scored. template: the prompt
    format of training. source_text: general text, one document each; None = the fetched default.
    shots_from: "fixed" (the first `shots` of `fixed_shots`, (question, answer) pairs that come with
    GSM8K) or "lm_eval" (the harness's draw from the GSM8K training split). few_shot_examples:
    training examples that prompts may begin with. without_few_shot: no item has few-shot examples
    before it, for decontamination. world: the seed of the lab's world. dev: items that decide
    something (a checkpoint, a learning rate), not those that are reported. target_shots: of
    `shot_pool`, training examples in the order in which prompts take them, so many worked ones
    before every question of a task that `takes_shots`.
    """

    # Functions, because most tasks read little of this, and some of it is large.
    docs: Callable[[str], list[dict]] = readers.docs
    fixed_shots: Callable[[], list[tuple[str, str]]] = readers.gsm8k_cot_shots
    problems: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    target: Sequence[Example] = ()
    template: Template = TEMPLATES["plain"]
    source_text: Sequence[str] | None = None
    shots: int = 0
    shots_from: str = "fixed"
    few_shot_examples: Callable[[], Sequence[Example]] = tuple
    without_few_shot: bool = False
    world: int = 0
    dev: bool = False
    target_shots: int = 0
    shot_pool: Sequence[Example] = ()
    # Made by `items_of`; a copy with other fields begins without any.
    _made: dict[Any, Sequence[Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def items_of(self, task: "Task") -> Sequence[Any]:
        """The items of a task, which every evaluation on these inputs has in common."""
        # By the function, too: tasks of one's own may share a name with those of another run.
        key = (task.name, task.items)
        if key not in self._made:
            self._made[key] = task.items(self)
        return self._made[key]

    def worked(self, wanted: Callable[[Example], bool] = lambda example: True) -> str:
        """The first `target_shots` examples of the pool that are wanted, in the training's format.

        As lm-evaluation-harness puts few-shot examples before a question, each with an empty line
        after it. UserError where there are fewer.
        """
        if not self.target_shots:
            return ""
        chosen = list(itertools.islice(filter(wanted, self.shot_pool), self.target_shots))
        if len(chosen) < self.target_shots:
            raise UserError(
                f"{self.target_shots} examples before a question: the training source has"
                f" {len(chosen)} that are of its kind"
            )
        pieces = [self.template.prompt_and_response(shot.conversation) for shot in chosen]
        return self.preamble("".join(f"{prompt}{answer}\n\n" for prompt, answer in pieces))

    def preamble(self, text: str) -> str:
        """The text that comes before an item, empty when few-shot examples are left out."""
        return "" if self.without_few_shot else text


@dataclass(frozen=True)
class Likelihood:
    """Items decided by the log-probabilities of given texts.

    requests(item, tokenizer, length): the item's requests, of at most `length` input tokens each.
    record(item, scores): the item's record, from the scores of its requests in order.
    """

    # Any is the task's own item, a subclass of `Item`.
    requests: Callable[[Any, Tokenizer, int], list[Request]]
    record: Callable[[Any, list[Scored]], Record]
    metrics: ClassVar[tuple[Metric, ...]] = ()  # of any task with this method


@dataclass(frozen=True)
class Diverge:
    """Items decided by how far the next-token distributions are from the base's on given texts.

    requests: as of `Likelihood`. record(item, divergences): the item's record, from those of its
    requests in order.
    """

    requests: Callable[[Any, Tokenizer, int], list[Request]]
    record: Callable[[Any, list[Diverged]], Record]
    metrics: ClassVar[tuple[Metric, ...]] = ()


@dataclass(frozen=True)
class DivergeSampled:
    """As `Diverge`, on what the base itself samples after each item's prompt.

    prompt(item, tokenizer): ids to continue, at least one. record: as of `Diverge`, of the one
    continuation that is sampled.
    """

    prompt: Callable[[Any, Tokenizer], list[int]]
    record: Callable[[Any, list[Diverged]], Record]
    metrics: ClassVar[tuple[Metric, ...]] = ()


@dataclass(frozen=True)
class Generate:
    """Items decided by greedily generated text, which ends at a `stop` text or EOS.

    record(item, text): the item's record. Items have a `prompt`.
    """

    stop: tuple[str, ...]
    record: Callable[[Any, str], Record]
    metrics: ClassVar[tuple[Metric, ...]] = (emitted_eos(),)


@dataclass(frozen=True)
class Execute:
    """Items decided by running generated programs, several samples for each `prompt`.

    extract(item, text): the code in a generated text. program(item, code): that code with the
    item's tests, for `evals.sandbox`. record(item, texts, verdicts): one record of all samples of
    the item.
    """

    stop: tuple[str, ...]
    extract: Callable[[Any, str], str]
    program: Callable[[Any, str], Program]
    record: Callable[[Any, Sequence[str], Sequence[Verdict]], Record]
    metrics: ClassVar[tuple[Metric, ...]] = (emitted_eos(),)


# A method has metrics of its own, besides the task's: what can be said of any generated text.
Method = Likelihood | Diverge | DivergeSampled | Generate | Execute


# The defaults of `Task`.


def _no_details(inputs: Inputs) -> dict[str, Any]:
    return {}


def _no_requirements() -> None:
    pass


def _never_skipped(inputs: Inputs) -> str:
    return ""


@dataclass(frozen=True)
class Task:
    """One evaluation: its items, the method that makes records of them, the metrics of records.

    version: raise it when the task's meaning changes; older records are then evaluated again.
    label: precedes a metric's label in tables. metrics: the first is the task's main metric.
    details: what the records' settings should name of the inputs. interleaved: kinds of items
    alternate, so that a limit takes the first items, whatever `Settings.pick` says. check: raises
    UserError where the task cannot run on this machine; called before any work. reads_source: the
    items are held-out examples of the training source. takes_shots: worked training examples may
    stand before its questions (`Inputs.worked`). skip_reason: why scores on these inputs
    would mean nothing, so that the task is skipped; "" for a meaningful score.
    """

    name: str
    version: int
    label: str
    items: Callable[[Inputs], Sequence[Any]]
    method: Method
    metrics: tuple[Metric, ...]
    details: Callable[[Inputs], dict[str, Any]] = _no_details
    interleaved: bool = False
    check: Callable[[], None] = _no_requirements
    reads_source: bool = False
    takes_shots: bool = False
    skip_reason: Callable[[Inputs], str] = _never_skipped

    @property
    def may_be_skipped(self) -> bool:
        """Whether there are inputs on which it is left out."""
        return self.skip_reason is not _never_skipped

    def measure(self, records: Sequence[Record]) -> dict[str, Measured]:
        """{metric name: its values and mean} of these records, the method's own metrics last."""
        measured: dict[str, Measured] = {}
        for metric in (*self.metrics, *self.method.metrics):
            # A metric with groups gives one measurement more for each group.
            measured |= {one.metric.name: one for one in metric.measure(records)}
        return measured
