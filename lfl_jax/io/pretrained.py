"""Models and tokenizers on disk, in any format: opened by path, read when they are loaded."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax

from lfl_jax import assets, quant
from lfl_jax.core import spec, tree
from lfl_jax.core.sharding import Rules
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import Params, Weight
from lfl_jax.errors import UserError
from lfl_jax.io import gguf, gguf_config, gguf_file, hf, hf_config
from lfl_jax.io.loading import Finish
from lfl_jax.models.config import ModelConfig
from lfl_jax.text import tokenizers
from lfl_jax.text.tokenizer import within
from lfl_jax.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Pretrained:
    """A model on disk, of which only the header was read.

    quantised: the format of its weights in the file ("Q4_1"), or None. load(cfg, rules, storage):
    the parameters on the mesh. storage is a dtype, or a format of quant.FORMATS for the linear
    weights, with the others in cfg.compute_dtype. tokenizer(): the one beside the weights. Both
    raise UserError for damaged files.
    """

    path: Path
    cfg: ModelConfig
    quantised: str | None
    load: Callable[[ModelConfig, Rules, str], Params]
    tokenizer: Callable[[], Tokenizer]


def dense_dtype(storage: str, cfg: ModelConfig) -> str:
    """The dtype that parameters are read in, before any of them is quantised."""
    return cfg.compute_dtype if storage in quant.FORMATS else storage


def is_linear(path: str) -> bool:
    """Whether a parameter is quantised where the base is: a linear weight of a layer."""
    # Norms, embedding and head stay dense, as in QLoRA.
    return path.startswith(("layers/attn/", "layers/mlp/"))


def linear_quantiser(storage: str, rules: Rules) -> Finish:
    """(path, spec, parameter) -> the parameter as stored: linear weights may be quantised."""

    def quantise_linear(path: str, leaf: ArraySpec, parameter: jax.Array) -> Weight:
        if not is_linear(path) or storage not in quant.FORMATS:
            return parameter
        return quant.hold(storage, leaf, parameter, rules)

    return quantise_linear


def stored(params: Params, specs: Params, storage: str, rules: Rules) -> Params:
    """Dense parameters as stored: linear weights may be quantised. storage: as of `Pretrained`."""
    quantise = linear_quantiser(storage, rules)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, x: quantise(tree.name(path), leaf, x),
        specs,
        params,
        is_leaf=spec.is_spec,
    )


def _open_gguf(file: Path) -> Pretrained:
    # The header is read once, for the config, the tokenizer's size and the table of tensors.
    tensors = gguf_file.Tensors(file)
    cfg = gguf_config.model_config(tensors)

    def load(cfg: ModelConfig, rules: Rules, storage: str) -> Params:
        return gguf.load(
            tensors, cfg, rules, dense_dtype(storage, cfg), linear_quantiser(storage, rules)
        )

    read = partial(tokenizers.from_gguf_header, tensors.metadata)
    tokenizer = partial(_fitting, file, cfg, read)
    return Pretrained(file, cfg, tensors.quantisation(), load, tokenizer)


def _open_hf(folder: Path) -> Pretrained:
    fields = hf_config.read_fields(folder)
    cfg = hf.read_config(folder, fields)

    def load(cfg: ModelConfig, rules: Rules, storage: str) -> Params:
        return hf.load(
            folder, cfg, rules, dense_dtype(storage, cfg), linear_quantiser(storage, rules)
        )

    # A folder that we exported names the format that its weights have been through.
    quantised = fields.get(hf.DEQUANTISED_FROM)
    tokenizer = partial(_fitting, folder, cfg, partial(tokenizers.from_folder, folder))
    return Pretrained(folder, cfg, str(quantised) if quantised else None, load, tokenizer)


def _fitting(source: Path, cfg: ModelConfig, read: Callable[[], Tokenizer]) -> Tokenizer:
    """The tokenizer, if it fits this model's embedding; UserError when it is another model's.

    Tokens added without a row in the embedding, such as one for padding, are an error only in texts
    that have them.
    """
    tokenizer, rows = read(), cfg.vocab_size
    n_base = tokenizer.vocab_size if tokenizer.n_base is None else tokenizer.n_base
    if n_base > rows:
        raise UserError(
            f"{source}: the tokenizer has {n_base} tokens, the embedding {rows} rows; they are not"
            " of one model"
        )
    # JAX raises no error for an id beyond the embedding.
    used_by_every_text = {
        "EOS": tokenizer.eos_id,
        "BOS": tokenizer.bos_id if tokenizer.add_bos else None,
    }
    for name, token_id in used_by_every_text.items():
        if token_id is not None and token_id >= rows:
            raise UserError(
                f"{source}: {name} is token {token_id}, for which the embedding has no row: it has"
                f" {rows}"
            )
    return within(tokenizer, rows, str(source)) if tokenizer.vocab_size > rows else tokenizer


def _gguf_file(path: Path) -> Path | None:
    """The file itself, or the only .gguf file of a folder."""
    ggufs = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf"))
    return ggufs[0] if len(ggufs) == 1 else None


def _hf_folder(path: Path) -> Path | None:
    return path if (path / "config.json").is_file() else None


# format -> (the file or folder of this format at a path, or None; how it is opened)
FORMATS: dict[str, tuple[Callable[[Path], Path | None], Callable[[Path], Pretrained]]] = {
    "Hugging Face folder": (_hf_folder, _open_hf),
    "GGUF": (_gguf_file, _open_gguf),
}


def open_model(path: Path) -> Pretrained:
    """The model at a path, or of a hub's repository (hf:ORG/NAME), fetched if it is not cached.

    UserError for a path that does not exist, or has none of the formats.
    """
    path = assets.local(path)
    for locate, open_format in FORMATS.values():
        location = locate(path)
        if location is not None:
            return open_format(location)
    if not path.exists():
        raise UserError(f"{path}: no such model; expected a .gguf file or a Hugging Face folder")
    raise UserError(
        f"{path}: no model here; expected one .gguf file, or a folder with config.json and"
        " safetensors"
    )


# suffix of a tokenizer's file -> how it is read
TOKENIZER_FILES: dict[str, Callable[[Path], Tokenizer]] = {
    ".gguf": tokenizers.from_gguf,
    ".json": tokenizers.from_json,
    ".model": tokenizers.from_sentencepiece,
}


def open_tokenizer(path_or_name: str, cfg: ModelConfig) -> Tokenizer:
    """A tokenizer without its model: a folder, a file, a fetched name or hf:NAME.

    Raises UserError for one that is missing or damaged, and for one with more tokens than the
    model.
    """
    path = assets.local(path_or_name)
    # A path goes before an item of the manifest.
    if not path.exists() and path_or_name.partition("@")[0] in assets.manifest():
        path = assets.path(path_or_name)
    file = (_gguf_file(path) if path.is_dir() else None) or path
    if file.is_dir():
        return _fitting(path, cfg, partial(tokenizers.from_folder, file))
    if file.suffix not in TOKENIZER_FILES or not file.is_file():
        problem = "is no tokenizer" if file.is_file() else "no such file or folder"
        raise UserError(
            f"{path}: {problem}; expected a folder with tokenizer.json or tokenizer.model, one of"
            " these files, or a .gguf file"
        )
    return _fitting(path, cfg, partial(TOKENIZER_FILES[file.suffix], file))
