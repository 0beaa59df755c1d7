"""WinoGrande: which of two names fills the blank (Sakaguchi et al., arXiv 1907.10641), by partial
evaluation.

Both choices score the same continuation, the text after the blank, under two contexts: the text up
to the blank with the one name or the other.
"""

import difflib
from collections.abc import Sequence

from lfl_jax.evals import multiple_choice
from lfl_jax.evals.multiple_choice import Question
from lfl_jax.evals.task import Inputs

# Of the sentences with the same two options, twins share more than 3/4 of their words and others
# less than 0.55.
TWIN = 0.65


def questions(inputs: Inputs) -> list[Question]:
    """The xl validation split; the two sentences of a twin are one cluster."""
    docs = inputs.docs("winogrande")
    clusters = twins(docs)
    return [
        question(doc, str(i), cluster)
        for i, (doc, cluster) in enumerate(zip(docs, clusters, strict=True))
    ]


def question(doc: dict, number: str, cluster: str) -> Question:
    """From an original document; its position in the split is its id, since it carries none."""
    blank = doc["sentence"].index("_")
    contexts = tuple(
        doc["sentence"][:blank] + option for option in (doc["option1"], doc["option2"])
    )
    rest = " " + doc["sentence"][blank + 1 :].strip()
    return Question(
        number,
        cluster,
        tuple((c, rest) for c in contexts),
        contexts,
        {"1": 0, "2": 1}[doc["answer"]],
    )


def twins(docs: Sequence[dict]) -> list[str]:
    """The position of the first sentence of each document's twin pair: same options, nearly the
    same words."""
    firsts: dict[frozenset, list[tuple[int, list[str]]]] = {}
    clusters = []
    for i, doc in enumerate(docs):
        words = doc["sentence"].lower().split()
        known = firsts.setdefault(frozenset((doc["option1"].lower(), doc["option2"].lower())), [])
        twin = next((j for j, other in known if _ratio(words, other) > TWIN), None)
        if twin is None:
            known.append((i, words))
        clusters.append(str(i if twin is None else twin))
    return clusters


def _ratio(a: list[str], b: list[str]) -> float:
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()


TASK = multiple_choice.task("winogrande", 2, "WinoGrande", questions, ("acc",))
