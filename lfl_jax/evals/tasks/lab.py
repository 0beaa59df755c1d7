"""Facts of the lab's worlds: is the value the most probable next token?

`lab_source_facts` asks what the base was pretrained on, four values of every entity; finetuning may
make the model forget them. `lab_new_facts` asks the facts that lab_ift trains on,
`lab_further_facts` those of the source of this name. `lab_rule` asks
what lab_ift never shows: the rule on entities that it does not train. In the training's format:

    e017 r2 v45          <- v45 is scored after "e017 r2"

Metrics: acc (main) is 1 where the value has the largest probability of all tokens, so that nothing
is generated or parsed; gold_logprob is its log-probability in nats. Items about one entity are one
cluster. During training they are the facts of the "dev" entities, and at the end those of all
others, so that a choice is never made on the items that it is reported on.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from lfl_jax.data.examples import Example
from lfl_jax.data.formatting import prompt_ids
from lfl_jax.data.lab import vocabulary, world
from lfl_jax.data.lab.world import Fact
from lfl_jax.errors import UserError
from lfl_jax.evals.batching import Scored
from lfl_jax.evals.metrics import QUANTITY, Metric, Section
from lfl_jax.evals.requests import Request, truncate
from lfl_jax.evals.task import Inputs, Likelihood, Record, Task
from lfl_jax.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Question:
    """A fact in the training's format."""

    id: str
    cluster: str
    prompt: str
    answer: str


def source_facts(inputs: Inputs) -> list[Question]:
    """What the source world knows."""
    return _questions(world.source_facts(inputs.world, _splits(inputs)), inputs)


def new_facts(inputs: Inputs) -> list[Question]:
    """The target world's new facts."""
    return _questions(world.new_facts(inputs.world, _splits(inputs)), inputs)


def further_facts(inputs: Inputs) -> list[Question]:
    """The second set of new facts."""
    return _questions(world.further_facts(inputs.world, _splits(inputs)), inputs)


def rule(inputs: Inputs) -> list[Question]:
    """The rule on entities that it is not trained on."""
    facts = world.rule_facts(inputs.world, "dev" if inputs.dev else "test")
    return _questions(facts, inputs)


# By entity, not by fact: facts about one entity are not independent.
def _splits(inputs: Inputs) -> tuple[str, ...]:
    return ("dev",) if inputs.dev else ("train", "test")


def _questions(facts: list[Fact], inputs: Inputs) -> list[Question]:
    questions: list[Question] = []
    for fact in facts:
        prompt, answer = inputs.template.render(fact.question, fact.answer)
        worked = inputs.worked(functools.partial(_shows, fact))
        name = vocabulary.entity(fact.entity)
        questions.append(Question(fact.question, name, worked + prompt, answer))
    return questions


def _shows(fact: Fact, example: Example) -> bool:
    """Whether an example is another fact under the same relation: how to answer, not what."""
    relation = f" {vocabulary.relation(fact.relation)}"
    return example.prompt.endswith(relation) and example.prompt != fact.question


def requests(question: Question, tokenizer: Tokenizer, length: int) -> list[Request]:
    """The value after its question; UserError for a tokenizer that needs several tokens for it."""
    # A value in pieces could be half right; then the most probable token would say too much.
    answer = tuple(tokenizer.encode_continuation(question.answer))
    if len(answer) != 1:
        raise UserError(
            f"{question.answer.strip()!r} is {len(answer)} tokens of this tokenizer: the lab's"
            " evaluations need its own, config.model.tokenizer=lab-words"
        )
    prompt = tuple(prompt_ids(question.prompt, tokenizer))
    return [truncate(Request(prompt, answer), length)]


def record(question: Question, scored: list[Scored]) -> Record:
    """Whether the value is the most probable token, and its log-probability."""
    return {
        "id": question.id,
        "cluster": question.cluster,
        "acc": float(scored[0].greedy),
        "gold_logprob": scored[0].ll,
    }


def _task(
    name: str, label: str, section: Section, questions: Callable[[Inputs], list[Question]]
) -> Task:
    return Task(
        name=name,
        version=1,
        label=label,
        items=questions,
        method=Likelihood(requests, record),
        # Recall saturates at 0 and 1, where the log-probability still moves.
        metrics=(
            Metric("acc", "acc", "recall", section, chance=1 / vocabulary.VALUES),
            Metric("gold_logprob", "gold_logprob", "log p(right)", section, **QUANTITY),
        ),
        # Of what the base knows there are no training examples.
        takes_shots=section == "learning",
    )


SOURCE_FACTS = _task("lab_source_facts", "source facts", "forgetting", source_facts)
NEW_FACTS = _task("lab_new_facts", "new facts", "learning", new_facts)
FURTHER_FACTS = _task("lab_further_facts", "further facts", "learning", further_facts)
RULE = _task("lab_rule", "rule, other entities", "learning", rule)
