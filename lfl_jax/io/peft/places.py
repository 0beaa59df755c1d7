"""The modules of a model by Hugging Face's names, and where their weights are among our
parameters."""

import dataclasses
from typing import Any

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
class Place:
    """Where a module's weight is among our parameters, its shape in PyTorch's order, and the path
    of its bias."""

    path: str
    layer: int | None
    shape: tuple[int, ...]
    bias: str | None = None

    def leaves(self) -> dict[str, "Leaf"]:
        """What a module's own copy holds: {"weight": ..., and "bias" where it has one}."""
        weight = {"weight": Leaf(self.path, self.layer, self.shape)}
        return weight | ({"bias": Leaf(self.bias, self.layer, self.shape[:1])} if self.bias else {})


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One tensor of a module: its path among our parameters, its row of a stack, its shape in
    PyTorch's order."""

    path: str
    layer: int | None
    shape: tuple[int, ...]


def find_places(params: dict) -> dict[str, Place]:
    """Every module with a weight, by Hugging Face's name; a tied head has the embedding's shape."""
    stacks, found = params["layers"], {}
    biases = {
        name: f"{group}/{name}"
        for group, names in BIASES.items()
        for name in names
        if group in stacks
    }
    for layer in range(len(stacks["attn_norm"])):
        for path, module in (MODULES | NORMS).items():
            stack = get_path(stacks, path)
            if isinstance(stack, dict):  # only some families have it
                continue
            bias = biases.get(path.split("/")[1]) if path in MODULES else None
            where = f"layers/{bias}" if bias else None
            found[f"model.layers.{layer}.{module}"] = Place(
                f"layers/{path}", layer, stack.shape[1:][::-1], where
            )
    single = {"head": params["embed"]} | params
    return found | {
        module: Place(path, None, single[path].shape) for path, module in SINGLE.items()
    }


def adaptable(places: dict[str, Place]) -> list[str]:
    """The modules that can have an adapter."""
    return [name for name, place in places.items() if place.path.removeprefix("layers/") in MODULES]


def key_of(name: str, leaf: str = "weight") -> str:
    """What PEFT calls a module's tensor."""
    return f"{PREFIX}{name}.{leaf}"


def get_path(branch: Any, path: str) -> Any:
    """What lies at a slash path of nested dicts; an empty dict where nothing does."""
    for part in path.split("/"):
        branch = branch.get(part, {})
    return branch


def put_path(branch: dict, path: str, leaf: Any) -> dict:
    """A tree with this leaf at this path; what lies beside the path is shared."""
    name, _, rest = path.partition("/")
    return branch | {name: put_path(branch[name], rest, leaf) if rest else leaf}
