"""Adapters as values: frozen dataclasses in a tree beside the parameters.

Read kind.py and lora.py first: a kind of adapter is one file and one entry of build.KINDS. build.py
makes an adapter for a model, compose.py combines adapters, project.py computes with them.
"""

from lfl_jax.adapters.adapter_tree import member_count
from lfl_jax.adapters.bottleneck import Bottleneck
from lfl_jax.adapters.build import (
    KINDS,
    bind,
    deltas,
    find_kinds,
    init,
    merge,
    precompute_for_inference,
    rebind,
    sizes,
    specs,
)
from lfl_jax.adapters.combine import dare, magnitude_prune, ties
from lfl_jax.adapters.compose import (
    add,
    check_ids,
    fuse,
    interpolate,
    negate,
    route,
    scale,
    select,
    stack,
)
from lfl_jax.adapters.dora import DoRA
from lfl_jax.adapters.extract import extract
from lfl_jax.adapters.full_delta import FullDelta
from lfl_jax.adapters.ia3 import IA3
from lfl_jax.adapters.inits import LoftQ, OLoRA, PiSSA
from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.mix import Mix
from lfl_jax.adapters.project import project
from lfl_jax.adapters.routing import is_ids
from lfl_jax.adapters.site import AdapterContext, Site
from lfl_jax.adapters.truncate import truncate
from lfl_jax.adapters.vera import VeRA

fixed = precompute_for_inference  # its name before; programs outside of this repository use it

__all__ = [
    "KINDS",
    "AdapterContext",
    "Bottleneck",
    "DoRA",
    "FullDelta",
    "IA3",
    "Kind",
    "LoRA",
    "LoftQ",
    "Mix",
    "OLoRA",
    "PiSSA",
    "Site",
    "VeRA",
    "add",
    "bind",
    "check_ids",
    "dare",
    "deltas",
    "extract",
    "find_kinds",
    "fuse",
    "init",
    "interpolate",
    "is_ids",
    "magnitude_prune",
    "member_count",
    "merge",
    "negate",
    "precompute_for_inference",
    "project",
    "rebind",
    "route",
    "scale",
    "select",
    "sizes",
    "specs",
    "stack",
    "ties",
    "truncate",
]
