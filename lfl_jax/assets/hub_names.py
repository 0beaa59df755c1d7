"""Names of repositories on a hub, and which of their files a name stands for.

    hf:ORG/NAME[@REVISION][:FILE]                     a model or adapter; FILE: which of its .gguf
    hf:datasets/ORG/NAME[@REVISION][:CONFIG][:SPLIT]  a dataset
    data.source=hf:ORG/NAME:CONFIG:SPLIT              the same dataset

REVISION is a branch, a tag or a commit (default main). A branch is looked up once: the cache keeps
the commit it was at, and results name that commit.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from lfl_jax.assets import split_names, table_readers
from lfl_jax.core.files import expecting
from lfl_jax.errors import UserError

PREFIX, DATASETS = "hf:", "datasets/"
NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(?P<words>(:[^:]+)*)")
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "LICENSE*")
NO_DATA = ("dataset_infos.json", "dataset_info.json", "state.json")  # what describes data


@dataclass(frozen=True)
class HubName:
    """A parsed name; `words` are what stands after colons: a file, or a config and a split."""

    text: str
    repo: str
    repo_type: str
    revision: str
    words: tuple[str, ...]


def is_hub(name: str) -> bool:
    """Whether the name is one of a repository on a hub."""
    return name.startswith(PREFIX)


def dataset(place: str) -> str:
    """The name of a dataset that is written like a model, as in config.data.source."""
    rest = place.removeprefix(PREFIX)
    return place if rest.startswith(DATASETS) else PREFIX + DATASETS + rest


def parse(name: str) -> HubName:
    """The parts of a name; UserError with the form for one that is none."""
    rest = name.removeprefix(PREFIX)
    is_dataset = rest.startswith(DATASETS)
    match = NAME.fullmatch(rest.removeprefix(DATASETS))
    words = () if match is None else tuple(match["words"].split(":")[1:])
    # ".." would lead out of the cache, whose folders have these names.
    if match is None or ".." in rest or len(words) > (2 if is_dataset else 1):
        form = (
            "hf:datasets/ORG/NAME[@REVISION][:CONFIG][:SPLIT]"
            if is_dataset
            else "hf:ORG/NAME[@REVISION][:FILE]"
        )
        raise UserError(f"{name}: expected {form}")
    revision = match["revision"] or "main"
    return HubName(name, match["repo"], "dataset" if is_dataset else "model", revision, words)


def choose(name: HubName, files: Sequence[str], card: Mapping[str, Any]) -> list[str]:
    """The files of the repository that the name stands for, sorted.

    card: the metadata at the head of the repository's README. UserError, with what there is, for
    none.
    """
    # A card is written by hand, by anybody.
    with expecting(name.text, "a card that says which files are which split"):
        return sorted(CHOICES[name.repo_type](name, files, card))


def _model_files(name: HubName, files: Sequence[str], card: Mapping[str, Any]) -> list[str]:
    """Weights in safetensors with config and tokenizer, or the one .gguf that is named or alone."""
    ggufs = [file for file in files if file.endswith(".gguf")]
    if name.words:
        if name.words[0] not in files:
            raise UserError(
                f"{name.text}: no such file; there are: {', '.join(ggufs) or 'no .gguf files'}"
            )
        return [name.words[0]]
    # Folders of a model repository hold other formats and intermediate checkpoints.
    top = [file for file in files if "/" not in file]
    weights = _matching(top, MODEL_FILES)
    if any(file.endswith(".safetensors") for file in weights):
        return weights
    if len(ggufs) == 1:
        return ggufs
    if ggufs:
        raise UserError(
            f"{name.text}: several .gguf files; name one: {name.text}:{ggufs[0]} (or"
            f" {', '.join(ggufs[1:])})"
        )
    raise UserError(
        f"{name.text}: the repository has no .safetensors and no .gguf file; other formats run code"
    )


def _data_files(name: HubName, files: Sequence[str], card: Mapping[str, Any]) -> list[str]:
    """Files of one split, as the card's `configs` say, else by the names of folders and files."""
    data = [file for file in files if _is_data(file)]
    if not data:
        raise UserError(
            f"{name.text}: no data files ({', '.join(table_readers.READERS)}); a dataset made by a"
            " script has converted ones:"
            f" {PREFIX}{DATASETS}{name.repo}@refs/convert/parquet:CONFIG:SPLIT"
        )
    configs = {
        str(entry.get("config_name", "default")): entry for entry in card.get("configs") or ()
    }
    if any("data_files" in entry for entry in configs.values()):
        return _by_card(name, data, configs)
    return _by_names(name, data)


def _by_card(name: HubName, data: Sequence[str], configs: Mapping[str, Mapping]) -> list[str]:
    words = list(name.words)
    first = words[0] if words else ""
    # The first word is a config or a split; a config of this name comes first.
    if first in configs:
        config = words.pop(0)
    # Without a config's name, the choice of datasets.load_dataset.
    elif len(configs) == 1 or "default" in configs:
        config = next(iter(configs)) if len(configs) == 1 else "default"
    else:
        raise UserError(
            f"{name.text}: which config? write {PREFIX}{name.repo}:CONFIG; there are:"
            f" {', '.join(configs)}"
        )
    splits = _splits_of(configs[config])
    split = words[0] if words else "train"
    if split not in splits or len(words) > 1:
        raise UserError(
            f"{name.text}: config {config!r} has no split {split!r}; there are: {', '.join(splits)}"
        )
    matching = _matching(data, splits[split])
    if not matching:
        raise UserError(
            f"{name.text}: no file is like {', '.join(splits[split])}, which the card names"
        )
    return matching


def _matching(files: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The files that one of these shell patterns names."""
    patterns = tuple(patterns)

    def matches(file: str) -> bool:
        return any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)

    return list(filter(matches, files))


def _splits_of(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """{split: patterns} of a config's data_files.

    Cards have a text there, a list of texts, or a list of {split, path}.
    """
    entries = config.get("data_files") or ()
    if isinstance(entries, str):
        entries = [entries]
    splits: dict[str, list[str]] = {}
    for entry in entries:
        split, path = (
            (entry.get("split", "train"), entry["path"])
            if isinstance(entry, Mapping)
            else ("train", entry)
        )
        splits.setdefault(str(split), []).extend([path] if isinstance(path, str) else path)
    folder = config.get("data_dir")
    if folder:
        for split, paths in splits.items():
            splits[split] = [f"{folder}/{path}" for path in paths]
    return splits


def _by_names(name: HubName, data: Sequence[str]) -> list[str]:
    words = list(name.words)
    # A config without a card is a folder; without such a folder the first word is a split.
    in_folder = [file for file in data if words and file.startswith(f"{words[0]}/")]
    if in_folder:
        data, words = in_folder, words[1:]
    splits: dict[str, list[str]] = {}
    for split in split_names.WORDS:
        members = [file for file in data if _names_split(file, split)]
        splits |= {split: members} if members else {}
    splits = splits or {"train": list(data)}
    split = words[0] if words else "train"
    if split not in splits or len(words) > 1:
        raise UserError(
            f"{name.text}: no split or folder {split!r}; there are: {', '.join(splits)}"
        )
    return splits[split]


def _names_split(file: str, split: str) -> bool:
    words = "|".join(split_names.WORDS[split])
    # Between separators: the word "train" is in train-00000.parquet, and not in strain.csv.
    return re.search(rf"(^|[-._ /0-9])({words})($|[-._ /0-9])", file) is not None


def _is_data(file: str) -> bool:
    return table_readers.is_table(file) and PurePosixPath(file).name not in NO_DATA


CHOICES = {"model": _model_files, "dataset": _data_files}
