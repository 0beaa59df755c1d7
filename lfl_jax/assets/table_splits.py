"""The data files of a folder by split: as datasets' save_to_disk wrote, or by the files' names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lfl_jax.assets import fetching, hub_names
from lfl_jax.assets.split_names import OURS_BY_WORD
from lfl_jax.assets.table_readers import check_kind, is_table, kind, known
from lfl_jax.core.files import expecting, read_json_object
from lfl_jax.errors import UserError


def files_by_split(path: Path) -> dict[str, list[Path]]:
    """The data files of a file or folder by split, in the order of their names.

    A dataset of a hub, hf:ORG/NAME:CONFIG:SPLIT, is fetched where it is not here yet. Raises
    UserError for a path without data, and for a folder that save_to_disk wrote with rows picked
    from its files.
    """
    if hub_names.is_hub(str(path)):
        return {"train": fetching.local_files(hub_names.dataset(str(path)))}
    if path.is_file():
        check_kind(path)
        return {"train": [path]}
    if not path.is_dir():
        raise UserError(f"no data file {path}: expected {known()}, or a folder of them")
    if (path / "dataset_dict.json").is_file():
        return _saved_splits(path)
    if (path / "state.json").is_file():
        return {"train": _saved_files(path)}
    return _shards(path)


def _saved_splits(folder: Path) -> dict[str, list[Path]]:
    """The splits of a DatasetDict that save_to_disk wrote."""
    file = folder / "dataset_dict.json"
    names = read_json_object(file).get("splits", [])
    if not (isinstance(names, list) and all(map(_is_file_name, names))):
        raise UserError(f"{file}: expected the names of its splits, found {names!r:.40}")
    splits = _one_each(folder, {name: _split_of(name) for name in names})
    if "train" not in splits:
        raise UserError(
            f"{folder}: no split train; it has {', '.join(names)}; name the folder of one of them"
        )
    return {split: _saved_files(folder / members[0]) for split, members in splits.items()}


def _saved_files(folder: Path) -> list[Path]:
    """The Arrow files of one Dataset that save_to_disk wrote."""
    state = read_json_object(folder / "state.json")
    with expecting(folder / "state.json", "the names of its Arrow files"):
        names = [entry["filename"] for entry in state["_data_files"]]
        is_whole = bool(names) and all(map(_is_file_name, names))
    # Whoever made the folder must not name files elsewhere.
    if not is_whole or not all(name.endswith(".arrow") for name in names):
        raise UserError(f"{folder / 'state.json'}: expected names of Arrow files in this folder")
    # With a selection, the files hold rows that the dataset has not, in another order.
    if state.get("_indices_data_files"):
        raise UserError(
            f"{folder}: rows were picked from its files; save it again with"
            " Dataset.flatten_indices()"
        )
    return [folder / name for name in names]


def _is_file_name(name: object) -> bool:
    """Whether it names something in a folder, and nothing above or below it."""
    return isinstance(name, str) and re.fullmatch(r"[\w.-]+", name) is not None and ".." not in name


def _shards(folder: Path) -> dict[str, list[Path]]:
    """The data files below a folder, by the split in their names; all are "train" without one."""
    files = sorted(
        p for p in folder.rglob("*") if p.is_file() and is_table(p.name) and not _hidden(p, folder)
    )
    kinds = {kind(file.name) for file in files}
    if not files or len(kinds) > 1:
        problem = f"both {' and '.join(sorted(kinds))}" if files else "none"
        raise UserError(
            f"{folder}: expected data files of one kind, found {problem}; known: {known()}"
        )
    names = {file.relative_to(folder).as_posix(): file for file in files}
    split_of = {name: _split_of(name) for name in names}
    # Without a train split the words are no splits: "test_problems.jsonl" alone is training data.
    if "train" not in {split.ours for split in split_of.values() if split}:
        return {"train": files}
    splits = _one_each(folder, split_of)
    return {split: list(map(names.__getitem__, group)) for split, group in splits.items()}


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


@dataclass(frozen=True)
class Split:
    """Our split that a name says, and its own word for it, with the folder before it."""

    ours: str
    theirs: str


def _split_of(name: str) -> Split | None:
    """The split that the last telling part of a path begins with.

    "data/train-00000-of-00002.parquet" and "test_sft" are examples.
    """
    parts = name.split("/")
    # The file's own name decides before its folders: "train/test-0.jsonl" is of the test split.
    for i in range(len(parts) - 1, -1, -1):
        word = re.match(r"[A-Za-z_]*", parts[i])[0].strip("_")
        ours = OURS_BY_WORD.get(word.partition("_")[0].lower())
        if ours:
            return Split(ours, "/".join([*parts[:i], word]))
    return None


def _one_each(folder: Path, split_of: Mapping[str, Split | None]) -> dict[str, list[str]]:
    """Names by our split; UserError where two of theirs are one of ours, or a name has none."""
    splits: dict[str, list[str]] = {}
    for name, split in split_of.items():
        if split is None:
            raise UserError(
                f"{folder}: {name} is of no known split, but others are; name one file or folder of"
                " it"
            )
        splits.setdefault(split.ours, []).append(name)
    for ours in splits:
        theirs = sorted({x.theirs for x in split_of.values() if x and x.ours == ours})
        if len(theirs) > 1:
            raise UserError(
                f"{folder}: {' and '.join(theirs)} would all be split {ours}; name one of them"
            )
    return splits
