"""The selection table: empty means XLA; an entry stands for its device, format, pass and shape
class, if it pays."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import pytest

from lfl_jax import quant
from lfl_jax.errors import UserError
from lfl_jax.kernels.low_rank import selection
from lfl_jax.kernels.low_rank.pallas_tpu import PallasTPU
from lfl_jax.kernels.low_rank.reference import XLA
from lfl_jax.kernels.low_rank.tiles import Tiles

ROOT = Path(__file__).parents[2]
W = jnp.zeros((64, 128), jnp.bfloat16)
ENTRY = selection.Entry(
    device="TPU v5 lite", format="dense", direction="backward", shape=selection.shape_class(100, 64, 128, 9),
    implementation="pallas_tpu", tiles=Tiles(128, 128, 64), seconds=0.9, xla_seconds=1.0, evidence="results/x.json",
)  # fmt: skip


def test_every_committed_entry_pays_and_has_its_evidence():
    for entry in selection.committed():
        assert entry.is_faster and (ROOT / entry.evidence).exists()


def test_an_entry_stands_for_its_class_only():
    def choose(**other):
        given = {"w": W, "rows": 100, "rank": 9, "device": "TPU v5 lite", "table": (ENTRY,)}
        return selection.choose(**given | other)

    chosen = (XLA(), PallasTPU(device="TPU v5 lite", tiles=ENTRY.tiles))
    assert choose() == chosen
    assert choose(rows=128, rank=16) == chosen
    neither = (XLA(), XLA())
    assert choose(table=()) == neither
    others = {"rows": 129, "rank": 17, "device": "cpu", "w": quant.int8.quantise(W)}
    for what, other in others.items():
        assert choose(**{what: other}) == neither, what
    assert choose(w=W[:32]) == neither


def test_a_table_is_read_as_it_was_written():
    assert selection.read(selection.write((ENTRY,))) == (ENTRY,)
    assert selection.read(selection.write(())) == ()


def test_what_does_not_pay_is_neither_written_nor_read():
    slower = dataclasses.replace(ENTRY, seconds=0.98)
    assert selection.read(selection.write((slower,))) == ()
    with pytest.raises(UserError, match=r"took 0.98 s where XLA took 1.0 s"):
        selection.read(selection.write((ENTRY,)).replace('"seconds": 0.9,', '"seconds": 0.98,'))
    with pytest.raises(UserError, match="names 'triton'"):
        selection.read(selection.write((ENTRY,)).replace("pallas_tpu", "triton"))


def test_times_of_an_interpreted_kernel_are_not_trusted():
    rehearsed = dataclasses.replace(ENTRY, device="cpu", seconds=0.1)
    with pytest.raises(UserError, match="rehearses a kernel on a CPU"):
        selection.read(selection.write((rehearsed,)))
