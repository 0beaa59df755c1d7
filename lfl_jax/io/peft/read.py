"""Reading a PEFT folder: exactly what its config names, or a refusal."""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax.adapters.adapter_tree import layers_of
from lfl_jax.adapters.dora import DoRA
from lfl_jax.adapters.truncate import norm
from lfl_jax.core import tree
from lfl_jax.core.types import AdapterTree, Params, Weight
from lfl_jax.errors import UserError
from lfl_jax.io import tensor_file
from lfl_jax.io.hf_names import MODULES
from lfl_jax.io.peft import ia3, lora, vera
from lfl_jax.io.peft.fields import Fields, saved_modules, show, target_modules, trained_biases
from lfl_jax.io.peft.modules import (
    EMBEDDINGS,
    SINGLE,
    Leaf,
    Modules,
    find_modules,
    get_path,
    key_of,
    put_path,
)
from lfl_jax.io.peft.named_tensors import NamedTensors
from lfl_jax.io.peft.stacks import Adapted, Shapes
from lfl_jax.models import llama
from lfl_jax.quant import require_dense

# peft_type -> the file that reads and writes it
KINDS: dict[str, ModuleType] = {"LORA": lora, "IA3": ia3, "VERA": vera}
SINGLE_PATHS = {module: path for path, module in SINGLE.items()}


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An adapter and the parameters that it goes with.

    modules: the number of adapted ones. delta_norm: ||dW||_F over all of them. description: the
    kind or rank in a word or two. replaced: paths of the parameters that the folder brought.
    """

    adapter: AdapterTree
    params: Params
    modules: int
    delta_norm: float
    description: str
    replaced: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line: how many modules, which, of what rank, and the size of the change."""
        stacks = {path.split("/")[1]: get_path(self.adapter, f"layers/{path}") for path in MODULES}
        names = ", ".join(name for name, stack in stacks.items() if stack is not None)
        total = len(MODULES) * len(self.params["layers"]["attn_norm"])
        also = f", with its own {', '.join(self.replaced)}" if self.replaced else ""
        return (
            f"{self.modules} of {total} modules ({names}), {self.description},"
            f" ||dW||_F = {self.delta_norm:.3g}{also}"
        )


@dataclasses.dataclass(frozen=True)
class _Content:
    """What a folder's config names.

    adapted: the linear modules with an adapter; embeddings: the embedding and head with a LoRA.
    required: tensors that must be there. brought: parameters that may be there, {key: leaf}, the
    embedding before the head. untie: over a tied base, an embedding that was trained as a copy
    leaves the head as it was, as in PEFT.
    """

    adapted: Adapted
    embeddings: Adapted
    required: Shapes
    brought: dict[str, Leaf]
    untie: bool

    def known(self) -> Shapes:
        """All tensors that may be in the file."""
        return {key: leaf.shape for key, leaf in self.brought.items()} | self.required


def load(folder: Path, params: Params, *, fingerprint: str | None = None) -> Loaded:
    """The adapter in this folder, float32, and these parameters with the folder's own in place.

    fingerprint: of the base, compared with the folder's if that has one. Raises UserError for a
    folder that is missing something, has too much, is misshapen, not finite, without effect, or not
    supported.
    """
    fields, tensors = Fields(folder), NamedTensors(folder)
    kind = _kind(fields)
    # First, since over another base every later message would mislead.
    tensor_file.check_base(folder, tensors.opened, fingerprint)
    content = _content(fields, kind, find_modules(params), params)
    tensors.check(content.required, content.known(), len(params["layers"]["attn_norm"]))

    with np.errstate(all="ignore"):
        # Overflow is reported below, as a change that is not finite, with the file's name.
        adapter = kind.build(content.adapted, tensors.read, params)
        delta_norm = norm(adapter, params)
    _check_delta(tensors.file, delta_norm, adapter)

    # The embedding's LoRA is added after the folder's own copies, which PEFT puts beneath it.
    new_params = _with_brought(tensors, content, params)
    new_params = _with_embedding_deltas(tensors, content.embeddings, new_params)
    return Loaded(
        adapter,
        new_params,
        len(content.adapted.names),
        delta_norm,
        kind.describe(adapter) + _describe_merged(content.embeddings.names),
        _replaced(new_params, params),
    )


def _kind(fields: Fields) -> ModuleType:
    name = fields.raw.get("peft_type")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise UserError(
            f"{fields.file}: peft_type={show(name)}; only {', '.join(KINDS)} are read (LORA with"
            " DoRA)"
        )
    fields.refuse_unknown(kind.READ | kind.IGNORED)
    return kind


def _content(fields: Fields, kind: ModuleType, modules: Modules, params: Params) -> _Content:
    """UserError where fields contradict one another."""
    names, embeddings = target_modules(fields, modules, kind.default_targets(params))
    saved = saved_modules(fields, modules)
    adapted, with_lora = (Adapted(fields, modules, group) for group in (names, embeddings))
    kind.check(adapted)
    _refuse_both(fields, names, saved)

    # Required are tensors of adapters and of parameters that the config names.
    brought = _leaves(saved, modules)
    brought |= trained_biases(fields, names, modules, kind.BIAS_OF_ADAPTED)
    required = kind.shapes(adapted) | _embedding_shapes(with_lora)
    required |= {key: leaf.shape for key, leaf in brought.items()}

    # PEFT's save_embedding_layers writes the embedding and the head, too, trained or not.
    optional = _leaves(EMBEDDINGS, modules) | _base_layers(embeddings, modules)
    untie = "model.embed_tokens" in saved and not fields.flag("ensure_weight_tying")
    return _Content(adapted, with_lora, required, optional | brought, untie)


def _refuse_both(fields: Fields, names: list[str], saved: list[str]) -> None:
    both = sorted(set(names) & set(saved))
    if both:
        raise UserError(
            f"{fields.file}: {both[0]} is in target_modules and in modules_to_save; expected one of"
            " them"
        )


def _leaves(names: Iterable[str], modules: Modules) -> dict[str, Leaf]:
    """{key: leaf} of modules that are saved whole, the embedding before the head."""
    leaves: dict[str, Leaf] = {}
    for name in names:
        leaves |= {key_of(name, end): leaf for end, leaf in modules[name].leaves().items()}
    return leaves


def _base_layers(names: Iterable[str], modules: Modules) -> dict[str, Leaf]:
    """{key: weight} of modules that PEFT wraps for their LoRA."""
    return {key_of(name, "base_layer.weight"): modules[name].leaves()["weight"] for name in names}


def _embedding_shapes(embeddings: Adapted) -> Shapes:
    """Shapes of LoRA on the embedding and the head; UserError for other kinds there."""
    kind = embeddings.fields.raw["peft_type"]
    if embeddings.names and kind != "LORA":
        module = embeddings.names[0].split(".")[-1]
        raise UserError(
            f"{embeddings.fields.file}: {kind} on {module} is not supported; train it whole:"
            f" modules_to_save=[{module!r}]"
        )
    return lora.embedding_shapes(embeddings)


def _check_delta(file: Path, delta_norm: float, adapter: AdapterTree) -> None:
    """UserError for a change that is not finite, or none."""
    if not delta_norm < float(np.finfo(np.float32).max):
        raise UserError(f"{file}: the weight change is not finite: training had diverged")
    # With B = 0 a DoRA's change is m / n - 1 times W, the rounding of its norms.
    rounding = 0.0
    doras = [layer for layer in layers_of(adapter) if isinstance(layer, DoRA)]
    if not any(jnp.any(layer.b) for layer in doras):
        rounding = 1e-5 * math.sqrt(sum(float(jnp.sum(x.w2 * x.gain)) for x in doras))
    if delta_norm <= rounding:
        raise UserError(
            f"{file}: the adapter changes nothing (||dW||_F = {delta_norm:.2g}): it was saved"
            " before training"
        )


def _with_brought(tensors: NamedTensors, content: _Content, params: Params) -> Params:
    """Parameters with the folder's copies in the dtype of what they replace; equal ones stay."""
    result = params
    for key, leaf in content.brought.items():
        if key not in tensors.keys:
            continue
        # A tied head has no parameter of its own yet: what it replaces is the embedding.
        is_tied_head = leaf.path == "head" and "head" not in params
        old = get_path(result, "embed" if is_tied_head else leaf.path)
        require_dense(f"{tensors.file}: modules_to_save", old)
        tensor = tensors.read(key)
        if leaf.layer is None:
            new = jnp.asarray(tensor, old.dtype)
        else:
            # A module of one layer is a row of our stack, (in, out) where the file has (out, in).
            new = jnp.asarray(old).at[leaf.layer].set(tensor.T)
        if not np.array_equal(new, old):
            result = put_path(result, leaf.path, _like(new, old))
    if content.untie and "head" not in params and key_of("lm_head") not in tensors.keys:
        result = result | {"head": params["embed"]}
    return result


def _with_embedding_deltas(tensors: NamedTensors, embeddings: Adapted, params: Params) -> Params:
    """Parameters with the LoRA of embedding and head added to their weights, in their dtype.

    Our models have adapters in their layers only. Over a tied base, PEFT changes each of the two
    alone.
    """
    result = params
    for name in embeddings.names:
        old = llama.head(params) if name == "lm_head" else params["embed"]
        require_dense(f"{tensors.file}: LoRA on {name}", old)
        with np.errstate(all="ignore"):
            delta = lora.embedding_delta(embeddings.fields, tensors.read, name)
        if not np.isfinite(delta).all():
            raise UserError(
                f"{tensors.file}: the weight change of {name} is not finite: training had diverged"
            )
        new = (jnp.asarray(old, jnp.float32) + delta).astype(old.dtype)
        result = result | {SINGLE_PATHS[name]: _like(new, old)}
    if embeddings.names and "head" not in result:
        result = result | {"head": params["embed"]}
    return result


def _like(new: jax.Array, old: Weight) -> jax.Array:
    """On the devices that the old parameter is on."""
    return jax.device_put(new, old.sharding) if isinstance(old, jax.Array) else new


def _describe_merged(embeddings: list[str]) -> str:
    names = " and ".join(name.split(".")[-1] for name in embeddings)
    return f", LoRA on {names} added to the weights" if names else ""


def _replaced(new: Params, old: Params) -> tuple[str, ...]:
    """Paths of new leaves, without a head that is the tied embedding as it was."""
    return tuple(path for path, leaf in tree.changed(new, old).items() if leaf is not old["embed"])
