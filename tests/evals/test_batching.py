"""Shared contexts, branches, packing and fixed batches leave the score of every request as it is."""

import numpy as np
import pytest

from lfl_jax.evals import batching
from lfl_jax.evals.requests import Request


def random_requests(seed: int, items: int = 40, longest: int = 30) -> list[list[Request]]:
    """Questions of 1 to 5 requests: the same context, contexts that differ at the end, or from the
    first token."""
    rng = np.random.default_rng(seed)
    made = []
    for kind in rng.integers(0, 4, items):
        context = tuple(rng.integers(3, 9, rng.integers(1, longest)).tolist())
        of_item = []
        for _ in range(rng.integers(1, 6)):
            own = {
                0: context,
                1: (*context, 3 + len(of_item)),
                2: (20 + len(of_item), *context),
                3: context[:2],
            }[kind]
            # few different tokens: continuations often begin alike, and must not be shared
            of_item.append(Request(own, tuple(rng.integers(3, 5, rng.integers(0, 8)).tolist())))
        made.append(of_item)
    return made


def run(requests, batch, length, score, done=None):
    plan = batching.plan(requests, batch, length)
    done = np.zeros(len(requests), bool) if done is None else done
    return dict(item for finished in batching.score_items(plan, score, done) for item in finished)


@pytest.mark.parametrize("length", [40, 64, 257])
def test_scores_are_those_of_each_request_by_itself(toy, toy_model, length):
    requests = random_requests(length)
    found = run(requests, 3, length, toy_model.score)
    assert sorted(found) == list(range(len(requests)))
    for item, of_item in enumerate(requests):
        expected = [toy.score(r.context, r.continuation) for r in of_item]
        assert [(s.ll, s.greedy) for s in found[item]] == expected
        assert [s.tokens for s in found[item]] == [len(r.continuation) for r in of_item]


def test_scores_do_not_move_with_the_batch_size(toy_model):
    requests = random_requests(1)
    found = [run(requests, batch, 64, toy_model.score) for batch in (1, 4, 7)]
    assert found[0] == found[1] == found[2]


def test_a_choice_that_sees_another_would_show(toy, toy_model):
    """The toy model tells a wrong mask: without branches the same rows give other scores."""
    requests = random_requests(2)
    blind = lambda rows: toy_model.score(rows | {"branch_ids": np.zeros_like(rows["branch_ids"])})  # noqa: E731
    assert run(requests, 3, 64, blind) != run(requests, 3, 64, toy_model.score)


def test_the_shared_part_is_computed_once():
    requests = [Request((5, 6, 7), (8, 9)), Request((5, 6, 7), (8, 4, 3)), Request((5, 6, 7), (2,))]
    (segment,) = batching.split(0, requests, 32)
    # trunk 5 6; then per choice a copy of 7 and the continuation but its last token
    assert segment.arrays["tokens"].tolist() == [5, 6, 7, 8, 7, 8, 4, 7]
    assert segment.arrays["targets"].tolist() == [6, 7, 8, 9, 8, 4, 3, 2]
    assert segment.arrays["weights"].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert segment.arrays["positions"].tolist() == [0, 1, 2, 3, 2, 3, 4, 2]
    assert segment.arrays["branch_ids"].tolist() == [0, 0, 1, 1, 2, 2, 2, 3]


def test_contexts_that_differ_share_their_beginning():
    requests = [Request((5, 6, 7, 8), (2, 3)), Request((5, 6, 9), (2, 3))]
    (segment,) = batching.split(0, requests, 32)
    assert segment.arrays["tokens"].tolist() == [5, 6, 7, 8, 2, 6, 9, 2]
    assert segment.arrays["weights"].tolist() == [0, 0, 0, 1, 1, 0, 1, 1]
    assert segment.arrays["positions"].tolist() == [0, 1, 2, 3, 4, 1, 2, 3]


def test_a_question_longer_than_a_row_is_split(toy, toy_model):
    requests = [[Request((5,) * 10, (i, i, i, i)) for i in range(6)]]
    segments = batching.split(0, requests[0], 20)
    assert [(s.first, s.count, s.size) for s in segments] == [(0, 2, 17), (2, 2, 17), (4, 2, 17)]
    assert run(requests, 2, 20, toy_model.score)[0] == run(requests, 2, 64, toy_model.score)[0]


def test_every_batch_has_the_same_shape():
    plan = batching.plan(random_requests(6), 4, 64)
    seen = []

    def score(rows):
        seen.append({name: (array.shape, array.dtype) for name, array in rows.items()})
        assert (rows["weights"][rows["segment_ids"] == 0] == 0).all()
        assert (rows["example_ids"][rows["segment_ids"] == 0] == -1).all()
        return rows["weights"], rows["weights"] > 0

    list(batching.score_items(plan, score, np.zeros(len(plan.requests), bool)))
    assert len(plan.rows) % 4 != 0  # the last batch is a padded one
    assert len(seen) == plan.figures["batches"] > 2
    assert all(shapes == seen[0] for shapes in seen)
    assert {shape for shape, _ in seen[0].values()} == {(4, 64)}


def test_what_is_scored_is_the_continuations():
    plan = batching.plan(random_requests(4), 4, 64)
    weights = sum(segment.arrays["weights"].sum() for row in plan.rows for segment in row)
    assert weights == sum(len(r.continuation) for of_item in plan.requests for r in of_item)


@pytest.mark.parametrize("seed", range(3))
def test_packing_places_everything_once_and_nearly_full(seed):
    sizes = np.random.default_rng(seed).integers(1, 60, 500).tolist()
    rows = batching.pack(sizes, 100)
    assert sorted(i for row in rows for i in row) == list(range(500))
    assert max(sum(sizes[i] for i in row) for row in rows) <= 100
    assert len(rows) <= -(-sum(sizes) // 100) * 1.03


def test_figures():
    plan = batching.plan([[Request((5,) * 9, (1, 1)), Request((5,) * 9, (2, 2))]], 2, 16)
    assert plan.figures == {
        "batches": 1,
        "tokens": 8 + 2 + 2,
        "computed_tokens": 32,
        "naive_tokens": 20,
        "useful": 12 / 32,
    }


def test_only_batches_with_unfinished_items_are_computed(toy_model):
    requests = random_requests(5)
    whole = run(requests, 2, 64, toy_model.score)
    calls = []

    def score(rows):
        calls.append(set(np.unique(rows["example_ids"])) - {-1})
        return toy_model.score(rows)

    done = np.ones(len(requests), bool)
    done[[3, 17]] = False
    assert run(requests, 2, 64, score, done) == {3: whole[3], 17: whole[17]}
    assert calls
    assert all({3, 17} & items for items in calls)


def test_nothing_to_score_but_an_empty_continuation(toy_model):
    (scored,) = run([[Request((5, 6), ())]], 1, 16, toy_model.score)[0]
    assert (scored.ll, scored.tokens, scored.greedy) == (0.0, 0, True)
