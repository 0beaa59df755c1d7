"""Held-out splits partition a source by cluster, stably."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfl_jax.data.splits import SPLITS, digest, split_index


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=80))
def test_splits_partition_the_rows_and_share_no_cluster(clusters):
    digests = [digest(str(c)) for c in clusters]
    found = {split: split_index(digests, split) for split in SPLITS}
    assert sorted(np.concatenate(list(found.values()))) == list(range(len(clusters)))
    held = [{clusters[i] for i in index} for index in found.values()]
    assert sum(map(len, held)) == len(set(clusters))
    for index in found.values():
        assert list(index) == sorted(index), "rows keep the order of the file"


def test_two_percent_of_the_clusters_are_held_out():
    digests = [digest(str(i)) for i in range(1000)]
    assert [len(split_index(digests, split)) for split in SPLITS] == [960, 20, 20]


def test_small_sources_still_have_held_out_items_and_tiny_ones_none():
    assert [len(split_index([digest(str(i)) for i in range(3)], s)) for s in SPLITS] == [1, 1, 1]
    assert [len(split_index([digest(str(i)) for i in range(2)], s)) for s in SPLITS] == [2, 0, 0]


def test_only_the_missing_splits_are_held_out():
    digests = [digest(str(i)) for i in range(100)]
    assert len(split_index(digests, "train", ("dev",))) == 98
    assert len(split_index(digests, "train", ())) == 100
    with_both = set(split_index(digests, "train"))
    assert with_both < set(split_index(digests, "train", ("dev",)))


def test_the_split_of_a_text_is_the_same_everywhere():
    """Changing this number moves items between train and test: no result before it compares to one
    after."""
    assert digest("How many?") == digest(" How many?\n") == 0xBA352E24C64C7137


@pytest.mark.parametrize("split", SPLITS)
def test_order_of_the_rows_does_not_matter(split):
    digests = [digest(str(i)) for i in range(200)]
    forward = {digests[i] for i in split_index(digests, split)}
    backward = {digests[::-1][i] for i in split_index(digests[::-1], split)}
    assert forward == backward
