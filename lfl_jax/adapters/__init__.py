"""Adapters as values: frozen dataclasses in a tree beside the parameters. A kind is one file and one entry of KINDS."""

from lfl_jax.adapters.build import KINDS, bind, deltas, init, merge, sizes, specs
from lfl_jax.adapters.compose import add, negate, scale
from lfl_jax.adapters.dora import DoRA
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.mix import Mix
from lfl_jax.adapters.project import project
from lfl_jax.adapters.truncate import truncate

__all__ = [
    "KINDS",
    "DoRA",
    "LoRA",
    "Mix",
    "add",
    "bind",
    "deltas",
    "init",
    "merge",
    "negate",
    "project",
    "scale",
    "sizes",
    "specs",
    "truncate",
]
