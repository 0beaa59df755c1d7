"""Which items a limited evaluation takes."""

from lfl_jax.evals.run import pick


def test_pick():
    assert pick(5, 0, "first") == pick(5, 9, "spread") == [0, 1, 2, 3, 4]
    assert pick(100, 3, "first") == [0, 1, 2]
    assert pick(100, 4, "spread") == [12, 37, 62, 87]
