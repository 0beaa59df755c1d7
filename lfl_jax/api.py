"""A model, an adapter and text in a few lines: what `import lfl_jax` offers. Everything here is a plain function.

params, cfg, tokenizer = lfl_jax.load("smollm2-135m")
params, adapter = lfl_jax.load_adapter("runs/quickstart", params)
print(lfl_jax.generate(params, cfg, tokenizer, ["Question: ..."], adapter=adapter)[0])
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lfl_jax import assets, runs, sample
from lfl_jax.adapters.build import require_bound
from lfl_jax.adapters.trees import as_params, layers_of, on_weights
from lfl_jax.core import tree
from lfl_jax.core.sharding import Rules, make_rules
from lfl_jax.data.formatting import prompt_ids
from lfl_jax.errors import UserError
from lfl_jax.io import adapter_file, hf, peft, pretrained
from lfl_jax.io.pretrained import Pretrained
from lfl_jax.models.config import ModelConfig
from lfl_jax.text.stops import cut, said
from lfl_jax.text.tokenizers import Tokenizer

AnyPath = str | os.PathLike


def load(
    path_or_name: AnyPath,
    *,
    dtype: str = "float32",
    rules: Rules | None = None,
    tokenizer: AnyPath | None = None,
) -> tuple[dict, ModelConfig, Tokenizer]:
    """A pretrained model: (params, cfg, tokenizer), from a Hugging Face folder, a GGUF file, a fetched name, or a
    hub's repository (hf:ORG/NAME[@REVISION], fetched first where it is not here).

    dtype: float32, bfloat16, or int8 or nf4 for its linear weights (quantised, for adapters to train over).
    rules: the mesh to put it on; by default all devices, sharded. tokenizer: a folder, file or fetched name to take in
    place of what came with the weights. Raises UserError for what is not there or damaged.
    """
    found = find(path_or_name)
    named = None if tokenizer is None else pretrained.open_tokenizer(os.fspath(tokenizer), found.cfg)
    opened = named or found.tokenizer()  # first: a folder without one is refused before its weights are read
    return found.load(found.cfg, rules or make_rules(), dtype), found.cfg, opened


def save(
    path: AnyPath,
    params: dict,
    cfg: ModelConfig,
    tokenizer: Tokenizer,
    *,
    dtype: str = "bfloat16",
    dequantised_from: str | None = None,
) -> None:
    """Write a Hugging Face folder with weights, config and tokenizer; dequantised_from: what `Pretrained` calls it."""
    folder, extra = Path(path), {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    if dequantised_from:
        extra[hf.DEQUANTISED_FROM] = dequantised_from
    hf.save(folder, params, cfg, dtype=dtype, extra=extra)
    for name, content in tokenizer.files().items():
        (folder / name).write_bytes(content)


def find(path_or_name: AnyPath) -> Pretrained:
    """The model's files, nothing loaded yet."""
    place = Path(path_or_name)
    if place.exists() or str(path_or_name).partition("@")[0] not in assets.manifest():
        return pretrained.open_model(place)
    return pretrained.open_model(assets.path(str(path_or_name)))


def generate(
    params: dict,
    cfg: ModelConfig,
    tokenizer: Tokenizer,
    prompts: str | Sequence[str],
    *,
    adapter: dict | None = None,
    gate: Any = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> list[str]:
    """What the model writes after each prompt, all prompts decoded together; greedy at temperature 0.

    gate (B, M): a factor per prompt on each member of the adapter; or integers (B,): the one each prompt uses, -1 being
    the base. stop: texts that end an answer and are left out.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    model = sample.unstacked({"params": params, "adapter": adapter or {}}, cfg.n_layers)
    before = [prompt_ids(prompt, tokenizer) for prompt in prompts]
    rows = sample.generate(
        model,
        before,
        cfg,
        max_new_tokens=max_new_tokens,
        eos_id=tokenizer.eos_id,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        gate=gate,
        stop=said(tokenizer, stop),
    )
    texts = [tokenizer.decode_continuation(ids, row) for ids, row in zip(before, rows, strict=True)]
    return [cut(text, stop) for text in texts]


def _from_peft(path: Path, params: dict) -> tuple[dict, dict]:
    found = peft.load(path, params, fingerprint=tree.fingerprint(params))
    print(f"{path}: {found.summary()}")  # noqa: T201 (what was found belongs before the user at once)
    return found.params, found.adapter


def _from_file(path: Path, params: dict) -> tuple[dict, dict]:
    return params, adapter_file.load(path, params, fingerprint=tree.fingerprint(params))


def _from_run(path: Path, params: dict) -> tuple[dict, dict]:
    return runs.load_onto(path, params)


# format -> (whether a path is of it, how it is read)
ADAPTER_FORMATS: dict[str, tuple[Callable[[Path], bool], Callable[[Path, dict], tuple[dict, dict]]]] = {
    "a PEFT folder": (lambda path: (path / "adapter_config.json").is_file(), _from_peft),
    "a run directory": (lambda path: (path / "checkpoints").is_dir(), _from_run),
    "an adapter file (.safetensors)": (lambda path: path.suffix == ".safetensors", _from_file),
}


def load_adapter(path_or_name: AnyPath, params: dict) -> tuple[dict, dict]:
    """(params, adapter) from a PEFT folder, a run directory, a file that `save_adapter` wrote, a fetched name, or a
    PEFT repository of a hub (hf:ORG/NAME).

    The params are those given, with the weights in place that were trained as a whole (PEFT's modules_to_save, a run
    that trained parameters). Raises UserError for damage, for another base, for an adapter that changes nothing, and
    for a fetched one whose rank is not what its name says.
    """
    params = as_params("load_adapter", params)
    place, name = Path(path_or_name), str(path_or_name)
    if not place.exists() and name.partition("@")[0] in assets.manifest():
        return _published(name, params)
    place = assets.local(place)
    for matches, read in ADAPTER_FORMATS.values():
        if matches(place):
            return read(place, params)
    raise UserError(f"{place}: no adapter here; expected {', '.join(ADAPTER_FORMATS)}")


def _published(name: str, params: dict) -> tuple[dict, dict]:
    folder, rank = assets.path(name), assets.item(name).rank
    params, adapter = _from_peft(folder, params)
    found = {layer.scale.shape[-1] for layer in layers_of(adapter)}
    if rank is not None and found != {rank}:
        raise UserError(
            f"{name}: its adapter has rank {', '.join(map(str, sorted(found)))}, its name says {rank}: mislabelled"
            f" where it was published? To use it as it is, name its folder: {folder}"
        )
    return params, adapter


def save_adapter(
    path: AnyPath,
    adapter: dict,
    params: dict,
    *,
    base_name: str = "",
    dtype: str = "float32",
    replaced: dict | None = None,
) -> None:
    """Write the adapter of these base parameters: any kind to a .safetensors file, or LoRA and DoRA to a PEFT folder.

    base_name: what PEFT's config calls the base. replaced (PEFT only): whole parameters that go with it, by path.
    """
    adapter, params = on_weights("save_adapter", adapter, params)
    require_bound("save_adapter", adapter, params)
    place, fingerprint = Path(path), tree.fingerprint(params)
    if place.suffix == ".safetensors":
        if replaced:
            raise UserError(
                f"{place}: an adapter file holds no parameters such as {next(iter(replaced))}; use a folder"
            )
        adapter_file.save(place, adapter, fingerprint=fingerprint)
    else:
        peft.save(place, adapter, params, base_name=base_name, fingerprint=fingerprint, dtype=dtype, replaced=replaced)
