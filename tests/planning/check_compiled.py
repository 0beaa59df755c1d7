"""A small step compiled for a topology: in a process of its own, where types are not checked at run
time, since jax puts descriptions in place of a state's arrays."""

import sys

from lfl_jax.config import command_line
from lfl_jax.core.sharding import make_rules
from lfl_jax.planning import compiled, topology

machine = topology.parse(sys.argv[1])
flags = ("--config.train.batch=8", "--config.train.microbatch=4", "--config.data.seq_len=128")
argv = ["plan", "--config=configs/math_ift.py:smoke,lora,r=4", *flags]
config = command_line.parse(argv, "", {})[0]
rules = make_rules(devices=compiled.devices(machine))
step = compiled.compile_step(config, rules, machine)
print(step)
assert step.overflow is None, step.overflow
assert step.memory.aliased > 0 and step.memory.temporaries > 0, step.memory

# Two layers in two microbatches gather their weights: in the loops of both.
gathered = [c for c in step.collectives if c.kind == "all-gather" and c.dtype == "f32"]
assert gathered and all(c.devices == 4 for c in gathered), step.collectives
assert sum(c.times for c in gathered) >= 4, gathered
