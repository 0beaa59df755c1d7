"""Sources that are files: fetched datasets, those of a hub, and the reader's own, as problems or as
documents.

Each is a function of (path, split, data, seed), listed in `sources.SOURCES`.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from lfl_jax.assets import hub_names, table_readers, table_splits
from lfl_jax.config import DataConfig
from lfl_jax.core.files import sha256_of_files
from lfl_jax.data import columns
from lfl_jax.data.examples import Source
from lfl_jax.data.rows import TableExamples, read_split
from lfl_jax.data.splits import SPLITS
from lfl_jax.errors import UserError


def gsm8k(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """GSM8K's training questions (never its test set), fetched or from `path`."""
    return _hub_file("gsm8k", "gsm8k-train", path, split, data)


def metamath(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """MetaMathQA, fetched or from `path`; rewrites of one question stay in one split."""
    return _hub_file("metamath", "metamathqa", path, split, data)


def magicoder(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Magicoder-Evol-Instruct, fetched or from `path`."""
    return _hub_file("magicoder", "magicoder-evol-instruct-110k", path, split, data)


def starcoder_python(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """StarCoder's Python files as documents, fetched or from `path`."""
    return _hub_documents("starcoder_python", "starcoder-python", path, split, data)


def openwebmath(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """OpenWebMath's pages as documents, fetched or from `path`."""
    return _hub_documents("openwebmath", "openwebmath", path, split, data)


def c4(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """A part of C4 as documents, to be replayed, fetched or from `path`."""
    return _hub_documents("c4", "c4", path, split, data)


def documents(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """The reader's own documents: a file or folder whose rows have a field text or content."""
    if not path:
        raise UserError(
            "config.data.source=documents needs config.data.path=FILE.jsonl (or .parquet, or a"
            " folder)"
        )
    return _own_documents(Path(path), split, data)


def jsonl(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """The reader's own file or folder of prompts and responses, or conversations."""
    if not path:
        raise UserError("config.data.source=jsonl needs config.data.path=FILE.jsonl")
    examples = read_split(Path(path), split, data.columns, tuple(own_held_out(data)))
    return file_source(Path(path).name, split, examples, examples.table.sha256, **_terms(path))


def hf(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """A dataset of a hub, hf:ORG/NAME[@REVISION][:CONFIG][:SPLIT]: prompts and responses, or
    conversations."""
    if not path:
        raise UserError("config.data.source=hf needs a dataset: hf:ORG/NAME:CONFIG:SPLIT")
    place = path if hub_names.is_hub(path) else hub_names.PREFIX + path
    return jsonl(path=place, split=split, data=data, seed=seed)


def tfds(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """A dataset prepared by tensorflow-datasets, in the array_record format."""
    from lfl_jax.data.tfds_source import read_tfds

    if not path:
        raise UserError("config.data.source=tfds needs the folder of a prepared dataset: tfds:DIR")
    examples, sha256 = read_tfds(Path(path), split, data.columns, tuple(own_held_out(data)))
    return file_source(examples.table.name, split, examples, sha256, licence="unknown", about=path)


def own_held_out(data: DataConfig) -> dict[str, str]:
    """{split: file} of the held-out files of the reader's own."""
    return {
        split: path for split, path in (("dev", data.dev_path), ("test", data.test_path)) if path
    }


def of_split(path: Path, split: str) -> list[Path]:
    """The files of one split, or all where there is only one."""
    own = table_splits.files_by_split(path)
    return own.get(split) or own["train"]


def _terms(path: str) -> dict[str, str]:
    """Licence and description of a reader's own file, or of a dataset of a hub, which says its
    own."""
    if not hub_names.is_hub(path):
        return {"licence": "unknown", "about": path}
    from lfl_jax import assets

    name = hub_names.dataset(path)
    return {"licence": assets.licence(name), "about": assets.origin(name)}


def _hub_file(name: str, item: str, path: str, split: str, data: DataConfig) -> Source:
    from lfl_jax import assets

    file = Path(path) if path else _data_file(item)
    examples = read_split(file, split, data.columns, tuple(own_held_out(data)))
    about = assets.manifest()[item].about
    return file_source(
        name, split, examples, examples.table.sha256, licence=assets.licence(item), about=about
    )


def _data_file(item: str) -> Path:
    from lfl_jax import assets

    folder = assets.path(item)
    files = [file for file in assets.provenance(item)["files"] if table_readers.is_table(file)]
    if len(files) != 1:
        raise UserError(
            f"{item}: expected one data file in {folder}, found {', '.join(files) or 'none'}"
        )
    return folder / files[0]


def file_source(
    name: str, split: str, examples: TableExamples, sha256: str, licence: str, about: str
) -> Source:
    """A source of the rows of a table."""
    return Source(name, split, examples, licence, sha256, None, False, about, columns=examples.used)


def _hub_documents(name: str, item: str, path: str, split: str, data: DataConfig) -> Source:
    from lfl_jax import assets

    if path:
        own = _own_documents(Path(path), split, data)
        return dataclasses.replace(
            own, name=name, licence=assets.licence(item), description=assets.manifest()[item].about
        )
    files, sha256 = _document_files(item)
    about = assets.manifest()[item].about
    return document_source(
        name, files, split, data, assets.licence(item), about, _carved(data), sha256
    )


def _document_files(item: str) -> tuple[list[Path], str]:
    """An item's files of documents, and the hash of their hashes, as they were taken when it was
    fetched."""
    from lfl_jax import assets

    folder, found = assets.path(item), assets.provenance(item)["files"]
    files = sorted(filter(table_readers.is_table, found))
    if not files:
        raise UserError(
            f"{item}: expected files of documents in {folder}, found {', '.join(found) or 'none'}"
        )
    hashed = hashlib.sha256("".join(found[file]["sha256"] for file in files).encode())
    return [folder / file for file in files], hashed.hexdigest()


def _own_documents(path: Path, split: str, data: DataConfig) -> Source:
    """A split of somebody's documents: the folder's own where it has some, else 2 % of the training
    documents."""
    own = table_splits.files_by_split(path)
    has_split = split != "train" and split in own
    files, carved = (own[split], ()) if has_split else (own["train"], _carved(data, own))
    return document_source(path.name, files, split, data, "unknown", str(path), carved)


def _carved(data: DataConfig, own: Iterable[str] = ()) -> tuple[str, ...]:
    """Held-out splits that are taken from the training documents: those that no file holds."""
    return tuple(
        split for split in SPLITS[1:] if split not in own and split not in own_held_out(data)
    )


def document_source(
    name: str,
    files: Sequence[Path],
    split: str,
    data: DataConfig,
    licence: str,
    about: str,
    carved: tuple[str, ...],
    sha256: str | None = None,
) -> Source:
    """A source of the documents in these files; carved: splits that are taken from among them."""
    from lfl_jax.data.documents import read_documents

    (column,) = columns.parse(data.columns).text or ("",)
    examples = read_documents(files, split, column, carved)
    return Source(
        name, split, examples, licence, sha256 or sha256_of_files(files), None, False, about
    )
