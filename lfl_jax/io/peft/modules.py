"""The modules of a model by Hugging Face's names, and their weights among our parameters."""

import dataclasses
from typing import Any, TypeAlias

from lfl_jax.core.types import Params, PyTree
from lfl_jax.io.hf_names import MODULES
from lfl_jax.models.llama import BIASES

CONFIG, STEM, PREFIX = "adapter_config.json", "adapter_model", "base_model.model."
NORMS = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "qk_norm/q": "self_attn.q_norm",  # Qwen3
    "qk_norm/k": "self_attn.k_norm",
}
SINGLE = {"embed": "model.embed_tokens", "head": "lm_head", "final_norm": "model.norm"}
EMBEDDINGS = ("model.embed_tokens", "lm_head")


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One tensor of a module.

    path: of the parameter. layer: its index in a stack, None outside of layers. shape: in PyTorch's
    order.
    """

    path: str
    layer: int | None
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Module:
    """A module's weight, described as a `Leaf` is, and the path of its bias."""

    path: str
    layer: int | None
    shape: tuple[int, ...]
    bias: str | None = None

    def leaves(self) -> dict[str, Leaf]:
        """The tensors of a module that is saved whole: "weight", and "bias" where it has one."""
        weight = {"weight": Leaf(self.path, self.layer, self.shape)}
        return weight | ({"bias": Leaf(self.bias, self.layer, self.shape[:1])} if self.bias else {})


Modules: TypeAlias = dict[str, Module]  # by Hugging Face's name


def find_modules(params: Params) -> Modules:
    """Every module with a weight; a tied head has the embedding's shape."""
    modules: Modules = {}
    for layer in range(len(params["layers"]["attn_norm"])):
        for path, name in (MODULES | NORMS).items():
            stack = get_path(params, f"layers/{path}")
            if isinstance(stack, dict):  # nothing lies there: only some families have it
                continue
            modules[f"model.layers.{layer}.{name}"] = Module(
                f"layers/{path}", layer, stack.shape[1:][::-1], _bias(params, path)
            )
    single = {"head": params["embed"]} | params
    return modules | {name: Module(path, None, single[path].shape) for path, name in SINGLE.items()}


def _bias(params: Params, path: str) -> str | None:
    """The path of the bias beside a weight ("attn/q"), in models that have it."""
    weight = path.split("/")[-1]
    for group, weights in BIASES.items():
        if path in MODULES and weight in weights and group in params["layers"]:
            return f"layers/{group}/{weight}"
    return None


def adaptable(modules: Modules) -> list[str]:
    """The modules that can have an adapter."""
    return [name for name, x in modules.items() if x.path.removeprefix("layers/") in MODULES]


def key_of(name: str, leaf: str = "weight") -> str:
    """PEFT's name of a module's tensor."""
    return f"{PREFIX}{name}.{leaf}"


def get_path(branch: PyTree, path: str) -> Any:
    """The leaf or branch at a slash path of nested dicts; an empty dict where there is none."""
    for part in path.split("/"):
        branch = branch.get(part, {})
    return branch


def put_path(branch: dict, path: str, leaf: PyTree) -> dict:
    """A copy with this leaf at this path, which shares everything else."""
    name, _, below = path.partition("/")
    return branch | {name: put_path(branch[name], below, leaf) if below else leaf}
