"""Pretrained models on disk, whatever their format. A format is a module and an entry of FORMATS."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lfl_jax import assets, quant
from lfl_jax.core import hosts, spec
from lfl_jax.core.sharding import Rules
from lfl_jax.core.spec import ArraySpec
from lfl_jax.errors import UserError
from lfl_jax.io import gguf, hf
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.text import tokenizers
from lfl_jax.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Pretrained:
    """A model on disk, its header read. quantised: the format its weights are held in ("Q4_1"), or None.

    load(cfg, rules, held): the parameters, on the mesh, in a dtype or with their linear weights in a format of
    quant.FORMATS (the rest in cfg.compute_dtype). tokenizer(): what came with the weights.
    Both raise UserError for damaged files.
    """

    path: Path
    cfg: ModelConfig
    quantised: str | None
    load: Callable[[ModelConfig, Rules, str], dict]
    tokenizer: Callable[[], Tokenizer]


def dense_dtype(held: str, cfg: ModelConfig) -> str:
    """The dtype that parameters are read in before any of them is quantised."""
    return cfg.compute_dtype if held in quant.FORMATS else held


def holder(held: str, rules: Rules) -> Callable[[str, ArraySpec, Any], Any]:
    """(path, spec, array) -> the parameter as it will be held: quantised, or as it is."""

    def hold(path: str, weight: ArraySpec, x: Any) -> Any:
        linear = path.startswith(("layers/attn/", "layers/mlp/"))
        return quant.hold(held, weight, x, rules) if held in quant.FORMATS and linear else x

    return hold


def _open_gguf(path: Path) -> Pretrained:
    metadata, tensors = gguf.load(path)

    def load(cfg: ModelConfig, rules: Rules, held: str) -> dict:
        dtype, hold = dense_dtype(held, cfg), holder(held, rules)

        def place(path: Any, weight: ArraySpec, x: np.ndarray) -> Any:
            placed = hosts.place(np.asarray(x, dtype), rules.sharding(weight.axes, weight.shape))
            return hold(jax.tree_util.keystr(path, simple=True, separator="/"), weight, placed)

        params, specs = gguf.to_params(metadata, tensors), llama.specs(cfg, dtype)
        return jax.tree_util.tree_map_with_path(place, specs, params, is_leaf=spec.is_spec)

    cfg = ModelConfig(**gguf.model_fields(metadata))
    return Pretrained(path, cfg, gguf.quantization(metadata), load, lambda: tokenizers.from_gguf(path))


def _open_hf(path: Path) -> Pretrained:
    fields = hf.read_fields(path)
    cfg = hf.read_config(path, fields)

    def tokenizer() -> Tokenizer:
        found = tokenizers.from_folder(path)
        if found.vocab_size > cfg.vocab_size:
            raise UserError(
                f"{path}: the tokenizer has {found.vocab_size} tokens, the embedding {cfg.vocab_size} rows;"
                " they are not of one model"
            )
        return found

    def load(cfg: ModelConfig, rules: Rules, held: str) -> dict:
        return hf.load(path, cfg, rules, dense_dtype(held, cfg), holder(held, rules))

    quantised = fields.get(hf.DEQUANTISED_FROM)
    return Pretrained(path, cfg, str(quantised) if quantised else None, load, tokenizer)


def _gguf_file(path: Path) -> Path | None:
    """The file, or the only .gguf file of the folder."""
    found = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf"))
    return found[0] if len(found) == 1 else None


def _hf_folder(path: Path) -> Path | None:
    return path if (path / "config.json").is_file() else None


# format -> (where in a path it lies, or None; how to open it)
FORMATS: dict[str, tuple[Callable[[Path], Path | None], Callable[[Path], Pretrained]]] = {
    "Hugging Face folder": (_hf_folder, _open_hf),
    "GGUF": (_gguf_file, _open_gguf),
}


def open_model(path: Path) -> Pretrained:
    """The model at a path, or of a hub's repository (hf:ORG/NAME, fetched where it is not here yet).

    UserError for a path that is not there, or that holds none of the formats.
    """
    path = assets.local(path)
    for locate, opened in FORMATS.values():
        place = locate(path)
        if place is not None:
            return opened(place)
    if not path.exists():
        raise UserError(f"{path}: no such model; expected a .gguf file or a Hugging Face folder")
    raise UserError(f"{path}: no model here; expected one .gguf file, or a folder with config.json and safetensors")
