"""What the tests save for peft to load: adapters of every kind, scaled, negated, with whole modules."""

import jax
import numpy as np

from lfl_jax import adapters
from lfl_jax.adapters.build import is_layer

SOME = {"targets": ("layers/[02]/attn/q", "layers/1/mlp/.*", "v"), "rank": 3, "alpha": 5.0}
UNEVEN = SOME | {
    "rank_pattern": (("layers/1/.*", 2), (".*/q", 5)),
    "alpha_pattern": ((".*/v", 0.7),),
}
# peft rewrites lists of twenty and more targets
TWENTY = {"targets": (r"layers/\d/(attn|mlp)/(q|k|v|o|gate|up)", "layers/[12]/mlp/down"), "rank": 2}


def half(adapter):
    return adapters.scale(adapter, 0.5)


SAVED = {
    "lora": {},
    "bf16": {"dtype": "bfloat16"},
    "subset": SOME,
    "patterns": UNEVEN,
    "twenty": TWENTY,
    "dora": {"kind": "dora"},
    "dora_uneven": UNEVEN | {"kind": "dora"},
    "mix": UNEVEN | {"kind": "lora+lora"},
    "negative": SOME | {"change": adapters.negate},
    "uneven_scale": {"change": lambda adapter: by_rank(adapter)},
    "head": SOME | {"replaced": ("head",)},
    "norms": SOME | {"replaced": ("final_norm", "layers/attn_norm", "layers/mlp_norm")},
    "whole_module": SOME | {"replaced": ("layers/attn/k",)},
    "ia3": {"kind": "ia3", "targets": ("k", "v", "down")},
    "ia3_layers": {
        "kind": "ia3",
        "targets": ("layers/[02]/attn/q", "layers/1/mlp/(up|down)"),
        "replaced": ("head",),
        "change": half,
    },
    "vera": {"kind": "vera", "rank": 4, "targets": ("q", "k", "v", "o", "gate", "up", "down")},
    "vera_layers": {
        "kind": "vera",
        "rank": 3,
        "targets": ("layers/[02]/attn/q", "layers/1/mlp/(up|down)"),
        "change": half,
    },
    "vera_and_lora": {"kind": "vera+lora", "rank": 3, "targets": ("q", "v")},
    "tied": SOME,
    "tied_embedding": SOME | {"replaced": ("embed",)},
    "tied_head": SOME | {"replaced": ("head",)},
    "tied_both": SOME | {"replaced": ("embed", "head")},
}


def by_rank(adapter):
    factors = np.arange(1.0, 5.0, dtype=np.float32)
    return jax.tree.map(
        lambda x: None if x is None else x.replace(scale=x.scale * factors),
        adapter,
        is_leaf=is_layer,
    )
