"""Pretrained models on disk, whatever their format. A format is a module and an entry of FORMATS."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lfl_jax.core import spec
from lfl_jax.core.sharding import Rules
from lfl_jax.errors import UserError
from lfl_jax.io import gguf, hf
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.text import tokenizers
from lfl_jax.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Pretrained:
    """A model on disk, its header read. quantised: the format its weights are held in ("Q4_1"), or None.

    load(cfg, rules, dtype): the parameters, on the mesh. tokenizer(): what came with the weights.
    Both raise UserError for damaged files.
    """

    path: Path
    cfg: ModelConfig
    quantised: str | None
    load: Callable[[ModelConfig, Rules, Any], dict]
    tokenizer: Callable[[], Tokenizer]


def _open_gguf(path: Path) -> Pretrained:
    metadata, tensors = gguf.load(path)

    def load(cfg: ModelConfig, rules: Rules, dtype: Any) -> dict:
        shardings = spec.shardings(llama.specs(cfg), rules)
        params = gguf.to_params(metadata, tensors)
        return jax.tree.map(lambda x, s: jax.device_put(np.asarray(x, dtype), s), params, shardings)

    cfg = ModelConfig(**gguf.model_fields(metadata))
    return Pretrained(path, cfg, gguf.quantization(metadata), load, lambda: tokenizers.from_gguf(path))


def _open_hf(path: Path) -> Pretrained:
    cfg = hf.read_config(path)

    def tokenizer() -> Tokenizer:
        found = tokenizers.from_folder(path)
        if found.vocab_size > cfg.vocab_size:
            raise UserError(
                f"{path}: the tokenizer has {found.vocab_size} tokens, the embedding {cfg.vocab_size} rows;"
                " they are not of one model"
            )
        return found

    def load(cfg: ModelConfig, rules: Rules, dtype: Any) -> dict:
        return hf.load(path, cfg, rules, dtype)

    quantised = hf.read_fields(path).get(hf.DEQUANTISED_FROM)
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
    """The model at a path. UserError for a path that is not there, or that holds none of the formats."""
    for locate, opened in FORMATS.values():
        place = locate(path)
        if place is not None:
            return opened(place)
    if not path.exists():
        raise UserError(f"{path}: no such model; expected a .gguf file or a Hugging Face folder")
    raise UserError(f"{path}: no model here; expected one .gguf file, or a folder with config.json and safetensors")
