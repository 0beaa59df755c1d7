"""WinoGrande: which of two names fills the blank of a sentence.

Sakaguchi et al. 2019, arXiv 1907.10641. Data: validation split of the xl set, 1267 sentences,
CC-BY-4.0 licence. The first of them:

    Sarah was a much better surgeon than Maria so _ always got the easier cases.

is scored by partial evaluation: one continuation, the text after the blank, after two contexts, the
text up to the blank with either name.

    Sarah was a much better surgeon than Maria so Sarah |  always got the easier cases.
    Sarah was a much better surgeon than Maria so Maria |  always got the easier cases.   <- gold

Metric, as in lm-evaluation-harness's `winogrande`: acc predicts the name under which the
continuation has the larger log-probability. It is not normalised: the continuation is the same.
"""

import difflib
from collections.abc import Sequence

from lfl_jax.evals import multiple_choice
from lfl_jax.evals.multiple_choice import Question
from lfl_jax.evals.task import Inputs

# Sentences come in twins that differ in a word or two, which turns the answer around. Of sentences
# with the same two options, twins share more than 3/4 of their words and others less than 0.55.
TWIN_SIMILARITY = 0.65


def questions(inputs: Inputs) -> list[Question]:
    """The xl validation split; a sentence and its twin are one cluster."""
    docs = inputs.docs("winogrande")
    clusters = twins(docs)
    return [
        question(doc, str(i), cluster)
        for i, (doc, cluster) in enumerate(zip(docs, clusters, strict=True))
    ]


def question(doc: dict, name: str, cluster: str) -> Question:
    """From an original document, which has no id: `name` is its index in the split."""
    # The option is part of the context, so that both choices score the same tokens.
    blank = doc["sentence"].index("_")
    before, after = doc["sentence"][:blank], doc["sentence"][blank + 1 :]
    contexts = (before + doc["option1"], before + doc["option2"])
    pairs = tuple((context, f" {after.strip()}") for context in contexts)
    return Question(name, cluster, pairs, contexts, {"1": 0, "2": 1}[doc["answer"]])


def twins(docs: Sequence[dict]) -> list[str]:
    """For each document the index of the first sentence of its twin pair.

    Twins have the same options and nearly the same words.
    """
    firsts: dict[frozenset, list[tuple[int, list[str]]]] = {}
    clusters = []
    for i, doc in enumerate(docs):
        words = doc["sentence"].lower().split()
        options = frozenset((doc["option1"].lower(), doc["option2"].lower()))
        candidates = firsts.setdefault(options, [])
        similar = (j for j, other in candidates if _similarity(words, other) > TWIN_SIMILARITY)
        twin = next(similar, None)
        if twin is None:
            candidates.append((i, words))
        clusters.append(str(i if twin is None else twin))
    return clusters


def _similarity(a: list[str], b: list[str]) -> float:
    # autojunk would leave out frequent words of long sentences.
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()


# As contexts are the choices, dividing by their characters would mean nothing: acc alone.
TASK = multiple_choice.task("winogrande", 2, "WinoGrande", questions, ("acc",))
