"""Collectives read from a program's text: how often they run in a step, and of how many bytes."""

import subprocess
import sys
from pathlib import Path

import pytest

from lfl_jax.planning import hlo
from lfl_jax.planning.hlo import Collective

# A layer's body of an 8-layer scan in a 3-microbatch scan, as XLA prints one: long lines cut.
TEXT = """HloModule jit_f, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%moved (p: bf16[64,32]) -> bf16[8,32] {
  %p = bf16[64,32]{1,0} parameter(0)
  ROOT %rs.1 = bf16[8,32]{1,0} reduce-scatter(%p), replica_groups=[1,8]<=[8], to_apply=%add
}

%layer (arg: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %arg = (s32[], bf16[8,16]{1,0:T(8,128)(2,1)}) parameter(0)
  %gte = bf16[8,16]{1,0:T(8,128)(2,1)} get-tuple-element(%arg), index=1
  %ag = bf16[64,16]{1,0:T(8,128)(2,1)} all-gather(%gte), replica_groups={{0,1,2,3,4,5,6,7}}
  %rs = ((bf16[64,32]), bf16[8,32]{1,0}, u32[]) async-start(%ag), calls=%moved
  %rs-done = bf16[8,32]{1,0} async-done(%rs), calls=%moved
  %rs-start = ((f32[16,2], f32[8]{0}), (f32[2,2], f32[1]{0})) reduce-scatter-start(%a, %b), replica_groups=[1,8]<=[8]
  %ar = f32[4,4]{1,0} all-reduce(%z), replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add
  ROOT %out = (s32[], bf16[8,16]{1,0}) tuple(%i, %gte)
}

%cond (c: (s32[], bf16[8,16])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%microbatch (m: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %w = (s32[], bf16[8,16]) while(%m), condition=%cond, body=%layer, backend_config={"known_trip_count":{"n":"8"}}
  ROOT %cp = (f32[4,2], f32[4,2], u32[], u32[]) collective-permute-start(%q), source_target_pairs={{0,1},{1,0}}
}

%chunk (m: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  ROOT %max = (f32[16]{0}, bf16[4]{0}) all-reduce(%z, %t), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
}

ENTRY %main (p0: bf16[8,16]) -> bf16[8,16] {
  %w = (s32[], bf16[8,16]) while(%t), condition=%cond, body=%microbatch, backend_config={"known_trip_count":{"n":"3"}}
  %u = (s32[], bf16[8,16]) while(%t), condition=%cond, body=%chunk, metadata={op_name="loss"}
  ROOT %ags = ((s8[4]{0}, u8[2]{0}), (s8[32]{0}, u8[16]{0})) all-gather-start(%a, %b), replica_groups={}
}
"""


def by_kind(found):
    return {(c.kind, c.dtype): c for c in found}


def test_a_collective_is_counted_as_often_as_its_loops_run():
    found = by_kind(hlo.collectives(TEXT))
    gathered = found["all-gather", "bf16"]
    assert gathered == Collective("all-gather", "bf16", 8, 24, 24 * 64 * 16 * 2, False)
    # once, though the start and the done half both name its computation; of its whole operand
    scattered = found["reduce-scatter", "bf16"]
    assert (scattered.times, scattered.bytes) == (24, 24 * 64 * 32 * 2)
    # its operands are in the type of one that is started, and no part of its results
    scattered = found["reduce-scatter", "f32"]
    assert (scattered.times, scattered.bytes) == (24, 24 * (16 * 2 + 8) * 4)
    assert found["collective-permute", "f32"] == Collective(
        "collective-permute", "f32", 2, 3, 3 * 4 * 2 * 4, False
    )
    assert found["all-gather", "s8"].bytes == 32 + 16
    # {} is all of them
    assert found["all-gather", "s8"].devices == 8


def test_devices_that_take_part_are_read_in_all_three_notations():
    reduced = [c for c in hlo.collectives(TEXT) if c.kind == "all-reduce"]
    assert sorted((c.devices, c.times, c.bytes) for c in reduced) == [
        (2, 1, 16 * 4 + 4 * 2),
        (4, 24, 24 * 4 * 4 * 4),
    ]
    assert next(c for c in reduced if c.devices == 4).sent == 24 * 4 * 4 * 4 * 2 * 3 // 4


def test_a_loop_of_unknown_length_is_marked_or_given():
    def of_the_loss(**options):
        return next(c for c in hlo.collectives(TEXT, **options) if c.devices == 2 and c.dtype == "f32"
                    and c.kind == "all-reduce")  # fmt: skip

    assert of_the_loss().at_least
    given = of_the_loss(unknown_trips=5)
    assert given.times == 5 and not given.at_least


# For TPUs trip counts are not noted, and a gather that runs beside two products is written in both.
TPU = """HloModule jit_f, is_scheduled=true, num_partitions=16

%started (p: bf16[4,8]) -> bf16[64,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  %ag.1 = bf16[64,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, replica_groups=mesh['a'=16] {'a'}
  ROOT %cc = (bf16[4,8]{1,0}, bf16[64,8]{1,0}) custom-call(%ag.1), custom_call_target="AsyncCollectiveStart"
}

%beside (p: bf16[4,8]) -> bf16[64,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  ROOT %ag.2 = bf16[64,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, replica_groups=mesh['a'=16] {'a'}
}

%body (c: (bf16[4,8], u32[], u32[])) -> (bf16[4,8], u32[], u32[]) {
  %c = (bf16[4,8], u32[]{:T(128)}, u32[]) parameter(0)
  %two = u32[]{:T(128)} constant(2)
  %i = u32[]{:T(128)} get-tuple-element(%c), index=1
  %next = u32[]{:T(128)} add(%i, %two), metadata={op_name="step"}
  %x = bf16[64,8]{1,0} fusion(%i), kind=kCustom, calls=%started
  %y = bf16[64,8]{1,0} fusion(%i), kind=kCustom, calls=%beside
  ROOT %out = (bf16[4,8], u32[]{:T(128)}, u32[]) tuple(%x, %next, /*index=2*/%limit)
}

%cond (c: (bf16[4,8], u32[], u32[])) -> pred[] {
  %c = (bf16[4,8], u32[], u32[]) parameter(0)
  %limit = u32[]{:T(128)} LIMIT
  %i = u32[]{:T(128)} get-tuple-element(%c), index=1
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (p: bf16[4,8]) -> bf16[4,8] {
  %zero = u32[] constant(0)
  %seven = u32[] constant(7)
  %copy = u32[] copy(%seven)
  %start = (bf16[4,8], u32[], u32[]) tuple(%p, %zero, %copy)
  ROOT %w = (bf16[4,8], u32[], u32[]) while(%start), condition=%cond, body=%body
}
"""


@pytest.mark.parametrize(
    ("limit", "times"), [("constant(7)", 4), ("get-tuple-element(%c), index=2", 4)]
)
def test_a_tpus_loops_are_read_off_their_conditions(limit, times):
    (gathered,) = hlo.collectives(TPU.replace("LIMIT", limit))
    assert gathered == Collective("all-gather", "bf16", 16, times, times * 64 * 8 * 2, False)


def test_a_program_of_eight_devices_gathers_each_layers_weights_twice():
    """By XLA itself, in a process of its own."""
    script = Path(__file__).with_name("check_collectives.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
