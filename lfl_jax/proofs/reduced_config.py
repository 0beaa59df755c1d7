"""The fields of a config at reduced size, and what had to be left out."""

import dataclasses
import re

from lfl_jax.config import AdapterConfig, Config, DataConfig
from lfl_jax.core import spec, tree
from lfl_jax.data import sources
from lfl_jax.data.examples import Source
from lfl_jax.errors import UserError
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig

STEPS = 4  # of a reduced run, which is interrupted after half of them
RANK, SEQ_LEN, EXAMPLES, BINS, ROWS, DIMENSION = 8, 256, 64, 4, 2, 64


@dataclasses.dataclass(frozen=True)
class Opened:
    """A source that could be opened, and the section of the config that names it."""

    source: Source
    data: DataConfig


def of(
    config: Config, whole: ModelConfig, cfg: ModelConfig, has_tokenizer: bool, notes: list[str]
) -> Config:
    """The config with fewer steps, rows, ranks and tokens, and without evaluations and logs.

    whole, cfg: the model's shape and the cut one. What is left out is added to the notes.
    """
    rows, micro = ROWS, 0
    if config.train.microbatches > 1:
        rows, micro = 2 * ROWS, ROWS
    train = dataclasses.replace(
        config.train, steps=STEPS, tokens=0.0, branch_from="", batch=rows, microbatch=micro
    )
    warmup = min(config.optim.warmup_steps, 1)
    evaluations = dataclasses.replace(
        config.eval,
        tasks=(),
        base_tasks=(),
        every_tasks=(),
        every=0,
        every_tokens=0.0,
        log_spaced=0,
        decontaminate=False,
    )
    logs = {"every": 1, "tensorboard": False, "wandb": "", "profile": ""}
    return dataclasses.replace(
        config,
        adapter=_adapter(config.adapter, whole, cfg, notes),
        train=train,
        optim=dataclasses.replace(config.optim, warmup_steps=warmup),
        data=_data(config.data, has_tokenizer, notes),
        eval=evaluations,
        checkpoint=dataclasses.replace(config.checkpoint, every=STEPS // 2, keep=2),
        # Of all devices there are, whatever they are.
        mesh=dataclasses.replace(config.mesh, data=1, fsdp=-1, tensor=1, auto=False),
        log=dataclasses.replace(config.log, **logs),
        analysis=dataclasses.replace(config.analysis, every=0),
    )


def _data(data: DataConfig, has_tokenizer: bool, notes: list[str]) -> DataConfig:
    """Rows of fewer tokens, of fewer examples."""
    # A text has more bytes than the config's own tokenizer makes tokens of it.
    seq_len = min(data.seq_len, SEQ_LEN) if has_tokenizer else SEQ_LEN
    too_long = data.too_long
    is_shorter = data.seq_len > SEQ_LEN or not has_tokenizer
    # Rows that are cut from joined examples take one of any length.
    if too_long == "error" and is_shorter and data.packing != "concat":
        too_long = "truncate"
        notes.append(f"examples longer than {SEQ_LEN} tokens are cut (data.too_long=truncate)")
    return dataclasses.replace(
        data,
        size=min(data.size, EXAMPLES),
        seq_len=seq_len,
        too_long=too_long,
        pack_bins=min(data.pack_bins, BINS),
        # Each has as many rows of every microbatch.
        streams=min(data.streams, ROWS),
    )


def _adapter(
    adapter: AdapterConfig, whole: ModelConfig, cfg: ModelConfig, notes: list[str]
) -> AdapterConfig:
    """The same kinds, of lower rank with the same alpha / rank, where the cut model has layers."""
    for field in ("path", "over"):
        if getattr(adapter, field):
            notes.append(f"adapter.{field} is left out: the adapter is fresh")
    rank = adapter.rank and min(adapter.rank, RANK)
    alpha = adapter.alpha
    if adapter.rank and alpha is not None:
        alpha = alpha * rank / adapter.rank
    layers = _paths(cfg)
    patterns = {}
    for field in ("rank_pattern", "alpha_pattern"):
        pairs = getattr(adapter, field)
        patterns[field] = tuple(pair for pair in pairs if _matches(pair[0], layers))
        if len(patterns[field]) < len(pairs):
            notes.append(f"adapter.{field}: patterns of layers beyond the first {cfg.n_layers}")
    ranks = tuple((pattern, min(r, RANK)) for pattern, r in patterns["rank_pattern"])
    return dataclasses.replace(
        adapter,
        rank=rank,
        alpha=alpha,
        targets=_targets(adapter.targets, _paths(whole), layers),
        rank_pattern=ranks,
        alpha_pattern=patterns["alpha_pattern"],
        subspace_dim=min(adapter.subspace_dim, DIMENSION),
        path="",
        over="",
        start_config="",
    )


def _paths(cfg: ModelConfig) -> list[str]:
    """Unstacked paths of the linear weights, such as layers/3/attn/q."""
    linear = {part: llama.specs(cfg)["layers"][part] for part in ("attn", "mlp")}
    stacked = tree.paths({"layers": linear}, spec.is_spec)
    return [
        path.replace("layers/", f"layers/{i}/", 1) for i in range(cfg.n_layers) for path in stacked
    ]


def _targets(targets: tuple[str, ...], whole: list[str], cut: list[str]) -> tuple[str, ...]:
    """Targets that match in the cut model: those of later layers become their modules."""
    names = {path.split("/")[-1] for path in cut}
    reduced: list[str] = []
    for target in targets:
        if target in names or _matches(target, cut):
            reduced.append(target)
        else:
            reduced += sorted({p.split("/")[-1] for p in whole if re.fullmatch(target, p)})
    return tuple(dict.fromkeys(reduced))


def _matches(pattern: str, paths: list[str]) -> bool:
    return any(re.fullmatch(pattern, path) for path in paths)


def open_source(config: Config, notes: list[str]) -> Opened:
    """The training source, or a generated one in place of one that is not on this machine."""
    data, seed = config.data, config.seed.data
    try:
        return Opened(sources.open_source(data, "train", seed), data)
    except UserError as error:
        kind = sources.SOURCES.get(data.source)
        # A path or a mix is the person's own; a named source may have to be fetched first.
        if data.path or kind is None:
            raise
        stand_in = "math_text" if kind.documents else "word_problems"
        notes.append(f"{stand_in} in place of {data.source} ({str(error).splitlines()[0]})")
    data = dataclasses.replace(data, source=stand_in, columns="", dev_path="", test_path="")
    return Opened(sources.open_source(data, "train", seed), data)
