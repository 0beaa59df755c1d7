"""Which tokens of a text a tuned model predicts worse than its base, by type and by position.

    changes = token_forgetting.of_models(base, tuned, texts)
    changes.types[0].change            # "name": +0.31 nats per token, with its interval over texts
    changes.examples[0]                # where it was worst, with what stands around it

Both models score the same ids by the program that every evaluation uses, so that a model which is
its base changes exactly nothing. A token's change is nll(tuned) - nll(base) in nats. Means are over
tokens; their errors are clustered by text.

The layer-normalised logit lens, which would say in which layer a prediction changed, is left out:
the layers are one compiled scan that does not return what is between them.

Letters: N tokens of all texts, B rows, T positions.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from lfl_jax.analysis import token_types
from lfl_jax.analysis.token_types import TYPES, Predicate, Token, type_of
from lfl_jax.core.sharding import Rules, make_rules
from lfl_jax.errors import UserError
from lfl_jax.evals import batching, scorer, stats
from lfl_jax.evals.batching import Plan, Rows
from lfl_jax.evals.requests import Request
from lfl_jax.evals.stats import Estimate
from lfl_jax.evals.task import Scorer
from lfl_jax.evals.tasks import perplexity
from lfl_jax.io.progress import Advance, progress
from lfl_jax.model import LoadedModel, Model
from lfl_jax.text.tokenizers import Tokenizer

# Characters around an example.
BEFORE, AFTER = 60, 20
Cell = str | int | float | None
Labels = Shaped[np.ndarray, " N"]  # the type of every token, by name


@dataclass(frozen=True)
class Group:
    """Tokens of one type, or at some positions; nll in nats per token.

    share: of all tokens. share_of_increase: of what all tokens lost together, None where that is
    no loss. kl: KL(base || tuned) at these tokens.
    """

    name: str
    tokens: int
    share: float
    base_nll: float
    change: Estimate
    share_of_increase: float | None
    kl: float

    def row(self) -> dict[str, Cell]:
        """Flat, for tables and files."""
        low, high = (None if np.isnan(x) else x for x in (self.change.low, self.change.high))
        return {
            "group": self.name,
            "tokens": self.tokens,
            "share of tokens": self.share,
            "base nll": self.base_nll,
            "change": self.change.mean,
            "95 % low": low,
            "95 % high": high,
            "texts": self.change.clusters,
            "share of increase": self.share_of_increase,
            "KL(base || tuned)": self.kl,
        }


@dataclass(frozen=True)
class Example:
    """A token with what stands before and after it, and its nll in nats."""

    type: str
    text: int
    before: str
    token: str
    after: str
    base_nll: float
    tuned_nll: float

    def row(self) -> dict[str, Cell]:
        """Flat, for tables and files."""
        return asdict(self)


@dataclass(frozen=True)
class TokenForgetting:
    """How the loss of tokens changed from a base to a tuned model.

    total: of all tokens. types: by type, what lost most of all first. positions: by how many tokens
    were read before. examples: of each type those that lost most. rarity: what words were counted
    in.
    """

    total: Group
    types: tuple[Group, ...]
    positions: tuple[Group, ...]
    examples: tuple[Example, ...]
    rarity: str


def of_models(
    base: LoadedModel,
    tuned: Model,
    texts: Sequence[str],
    *,
    rules: Rules | None = None,
    **options: int | bool | Mapping[str, int] | Mapping[str, Predicate] | None,
) -> TokenForgetting:
    """`measure` of a base and a model tuned from it, with an adapter or with other parameters."""
    shared = tuned.params is base.model.params
    # Of an adapter the base is the same arrays and program, with routing weights 0.
    alone = tuned if shared else base.model
    common = (base.cfg, base.tokenizer, rules or make_rules())
    options = {"length": min(base.cfg.max_seq_len, LENGTH)} | options
    return measure(
        scorer.build(alone, *common, "base", adapted=False),
        scorer.build(
            tuned, *common, "tuned", base_params=None if shared else lambda: base.model.params
        ),
        texts,
        **options,
    )


# Of scoring batches: rows, and tokens of a row. Longer texts are scored in windows.
ROWS, LENGTH = 8, 1024


def measure(
    base: Scorer,
    tuned: Scorer,
    texts: Sequence[str],
    *,
    rows: int = ROWS,
    length: int = LENGTH,
    word_counts: Mapping[str, int] | None = None,
    types: Mapping[str, Predicate] = TYPES,
    examples: int = 3,
    show_progress: bool = False,
) -> TokenForgetting:
    """Score the texts by both models, and group what changed.

    tuned: a scorer that knows its base, for the divergence. word_counts: of lower-case words in a
    larger text, by which words are rare; None counts them in `texts`. examples: of each type.
    UserError without a token to score, and for a loss that is not finite.
    """
    requests = _requests(texts, tuned.tokenizer, length)
    plan = batching.plan(requests, rows, length)
    if tuned.diverge is None:
        raise UserError("token forgetting compares a model with its base, and this one is alone")
    if not plan.rows:
        raise UserError("no text to score: every text is empty")
    with progress(3 * len(plan.batches), "tokens", visible=show_progress) as advance:
        scored = _Scored.of(plan, base, tuned, advance)
    if not np.all(np.isfinite([scored.base, scored.tuned])):
        raise UserError("the loss of a token is not finite, so that no change can be measured")

    counts = _counts(texts) if word_counts is None else word_counts
    tokens = _tokens(requests, tuned.tokenizer, token_types.rare_words(counts))
    labels = np.array([type_of(token, types) for token in tokens])
    return TokenForgetting(
        scored.group("all", np.ones(len(labels), bool)),
        _by_type(scored, labels),
        _by_position(scored, requests),
        tuple(_examples(scored, tokens, labels, examples)),
        "the texts scored" if word_counts is None else "the counts given",
    )


def _requests(texts: Sequence[str], tokenizer: Tokenizer, length: int) -> list[list[Request]]:
    """The windows of every text, as the evaluation of general text scores them."""
    documents = [perplexity.Document(str(i), str(i), text) for i, text in enumerate(texts)]
    return [perplexity.document_requests(one, tokenizer, length) for one in documents]


def _counts(texts: Sequence[str]) -> Counter[str]:
    return Counter(word for text in texts for word in token_types.words_of(text))


@dataclass(frozen=True)
class _Scored:
    """nll of every token by both models, KL(base || tuned) there, and the text that each is of."""

    base: Float[np.ndarray, " N"]
    tuned: Float[np.ndarray, " N"]
    kl: Float[np.ndarray, " N"]
    text: Int[np.ndarray, " N"]

    @classmethod
    def of(cls, plan: Plan, base: Scorer, tuned: Scorer, advance: Advance) -> "_Scored":
        """Of a plan's requests, by the scorers' compiled programs."""

        def values(score: batching.Score) -> list[Float[np.ndarray, " _"]]:
            def first(rows: Rows) -> Float[np.ndarray, "B T"]:
                advance(1)
                return np.asarray(score(rows)[0], np.float64)

            return batching.token_values(plan, first)

        before, after, far = (values(score) for score in (base.score, tuned.score, tuned.diverge))
        text = np.repeat(np.arange(len(before)), list(map(len, before)))
        return cls(*map(np.concatenate, (before, after, far)), text)

    @cached_property
    def change(self) -> Float[np.ndarray, " N"]:
        """Of nll: positive where the base predicted better."""
        return self.tuned - self.base

    def group(self, name: str, chosen: Bool[np.ndarray, " N"]) -> Group:
        """The tokens that are chosen."""
        text, change = self.text[chosen], self.change[chosen]
        total = float(self.change.sum())
        # As every nll per token is: sums of texts over their tokens.
        sizes = np.bincount(text).astype(float)
        there = np.flatnonzero(sizes)
        means = np.bincount(text, weights=change)[there] / sizes[there]
        return Group(
            name,
            tokens=len(change),
            share=len(change) / len(chosen),
            base_nll=float(self.base[chosen].mean()),
            change=stats.mean(means.tolist(), there.tolist(), sizes[there].tolist()),
            share_of_increase=float(change.sum()) / total if total > 0 else None,
            kl=float(self.kl[chosen].mean()),
        )


def _tokens(
    requests: Sequence[Sequence[Request]], tokenizer: Tokenizer, is_rare: Callable[[str], bool]
) -> list[Token]:
    """All tokens, in the order of the texts."""
    ids = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id} - {None}
    special = tokenizer.pieces(sorted(ids))
    tokens = []
    for of_text in requests:
        # Windows score every token of a text once, one after the other.
        scored_ids = itertools.chain(*(request.continuation for request in of_text))
        tokens += token_types.tokens_of(tokenizer.pieces(list(scored_ids)), special, is_rare)
    return tokens


def _by_type(scored: _Scored, labels: Labels) -> tuple[Group, ...]:
    groups = [scored.group(str(name), labels == name) for name in np.unique(labels)]
    return tuple(sorted(groups, key=lambda group: -group.tokens * group.change.mean))


def _by_position(scored: _Scored, requests: Sequence[Sequence[Request]]) -> tuple[Group, ...]:
    """By the number of tokens that were read before, in powers of two."""
    numbers = [
        len(request.context) + np.arange(len(request.continuation))
        for request in itertools.chain(*requests)
    ]
    octave = np.log2(np.concatenate(numbers)).astype(int)
    groups = []
    for power in np.unique(octave):
        first, last = 2**power, 2 ** (power + 1) - 1
        name = f"after {first}" if first == last else f"after {first} to {last}"
        groups.append(scored.group(name, octave == power))
    return tuple(groups)


def _examples(
    scored: _Scored, tokens: Sequence[Token], labels: Labels, count: int
) -> list[Example]:
    """Of each type the tokens whose loss rose most, the worst first; none whose loss fell."""
    seen: Counter[str] = Counter()
    worst = []
    for i in np.argsort(-scored.change, kind="stable"):
        label, token = str(labels[i]), tokens[i]
        if scored.change[i] <= 0:
            break
        seen[label] += 1
        if seen[label] <= count:
            before = token.document[max(token.start - BEFORE, 0) : token.start]
            after = token.document[token.end : token.end + AFTER]
            nll = (float(scored.base[i]), float(scored.tuned[i]))
            worst.append(Example(label, int(scored.text[i]), before, token.text, after, *nll))
    return worst
