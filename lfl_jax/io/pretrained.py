"""Pretrained models on disk, whatever their format. A format is a module and an entry of
FORMATS."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lfl_jax import assets, quant
from lfl_jax.core import hosts, spec, tree
from lfl_jax.core.sharding import Rules
from lfl_jax.core.spec import ArraySpec
from lfl_jax.errors import UserError
from lfl_jax.io import gguf, hf, hf_config
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.text import tokenizers
from lfl_jax.text.tokenizer import within
from lfl_jax.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Pretrained:
    """A model on disk, its header read. quantised: the format its weights are held in ("Q4_1"), or
    None.

    load(cfg, rules, held): the parameters, on the mesh, in a dtype or with their linear weights in
    a format of quant.FORMATS (the rest in cfg.compute_dtype). tokenizer(): what came with the
    weights. Both raise UserError for damaged files.
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
            return hold(tree.name(path), weight, placed)

        params, specs = gguf.to_params(metadata, tensors), llama.specs(cfg, dtype)
        return jax.tree_util.tree_map_with_path(place, specs, params, is_leaf=spec.is_spec)

    cfg = ModelConfig(**gguf.model_fields(metadata))
    tokenizer = partial(_fitting, path, cfg, lambda: tokenizers.from_gguf(path))
    return Pretrained(path, cfg, gguf.quantization(metadata), load, tokenizer)


def _open_hf(path: Path) -> Pretrained:
    fields = hf_config.read_fields(path)
    cfg = hf.read_config(path, fields)

    def load(cfg: ModelConfig, rules: Rules, held: str) -> dict:
        return hf.load(path, cfg, rules, dense_dtype(held, cfg), holder(held, rules))

    quantised = fields.get(hf.DEQUANTISED_FROM)
    tokenizer = partial(_fitting, path, cfg, lambda: tokenizers.from_folder(path))
    return Pretrained(path, cfg, str(quantised) if quantised else None, load, tokenizer)


def _fitting(where: Path, cfg: ModelConfig, read: Callable[[], Tokenizer]) -> Tokenizer:
    """A tokenizer for the embedding of a model. UserError when it is another model's.

    Tokens added without a row in the embedding, such as one for padding, are an error in the texts
    that have them.
    """
    found, rows = read(), cfg.vocab_size
    n_base = found.vocab_size if found.n_base is None else found.n_base
    if n_base > rows:
        raise UserError(
            f"{where}: the tokenizer has {n_base} tokens, the embedding {rows} rows; they are not"
            " of one model"
        )
    needed = {"EOS": found.eos_id, "BOS": found.bos_id if found.add_bos else None}
    for name, id_ in needed.items():
        if id_ is not None and id_ >= rows:
            raise UserError(
                f"{where}: {name} is token {id_}, for which the embedding has no row: it has {rows}"
            )
    return within(found, rows, str(where)) if found.vocab_size > rows else found


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
    """The model at a path, or of a hub's repository (hf:ORG/NAME, fetched where it is not here
    yet).

    UserError for a path that is not there, or that holds none of the formats.
    """
    path = assets.local(path)
    for locate, opened in FORMATS.values():
        place = locate(path)
        if place is not None:
            return opened(place)
    if not path.exists():
        raise UserError(f"{path}: no such model; expected a .gguf file or a Hugging Face folder")
    raise UserError(
        f"{path}: no model here; expected one .gguf file, or a folder with config.json and"
        " safetensors"
    )


# What a path to a tokenizer ends with -> how it is read
TOKENIZER_FILES: dict[str, Callable[[Path], Tokenizer]] = {
    ".gguf": tokenizers.from_gguf,
    ".json": tokenizers.from_json,
    ".model": tokenizers.from_sentencepiece,
}


def open_tokenizer(path_or_name: str, cfg: ModelConfig) -> Tokenizer:
    """A tokenizer by itself, for a model of this shape: a folder, a file of TOKENIZER_FILES, a
    fetched name or hf:NAME.

    Raises UserError for what is not there or damaged, and for a tokenizer with more tokens than the
    model.
    """
    place = assets.local(path_or_name)
    if not place.exists() and path_or_name.partition("@")[0] in assets.manifest():
        place = assets.path(path_or_name)
    file = (_gguf_file(place) if place.is_dir() else None) or place
    if file.is_dir():
        return _fitting(place, cfg, partial(tokenizers.from_folder, file))
    if file.suffix not in TOKENIZER_FILES or not file.is_file():
        there = "is no tokenizer" if file.is_file() else "no such file or folder"
        expected = (
            "a folder with tokenizer.json or tokenizer.model, one of these files, or a .gguf file"
        )
        raise UserError(f"{place}: {there}; expected {expected}")
    return _fitting(place, cfg, partial(TOKENIZER_FILES[file.suffix], file))
