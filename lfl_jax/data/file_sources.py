"""Sources that are files: fetched datasets, datasets of a hub, and your own.

A table has prompts and responses, or conversations; documents are text without a prompt. Each
source is called with path, split, data and seed, as `sources.SOURCES` lists it.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from lfl_jax import assets
from lfl_jax.assets import hub_names, table_readers, table_splits
from lfl_jax.config import DataConfig
from lfl_jax.core.files import sha256_of_files
from lfl_jax.data import columns
from lfl_jax.data.documents import read_documents
from lfl_jax.data.examples import Source
from lfl_jax.data.rows import TableExamples, read_split
from lfl_jax.data.splits import SPLITS
from lfl_jax.errors import UserError


@dataclass(frozen=True)
class Origin:
    """What a source is called, under which licence it is, and what it is."""

    name: str
    licence: str
    about: str

    @classmethod
    def of_item(cls, name: str, item: str) -> "Origin":
        """Of a dataset in the manifest."""
        return cls(name, assets.licence(item), assets.manifest()[item].about)

    @classmethod
    def of_path(cls, path: str) -> "Origin":
        """Of your own file, whose licence is unknown, or of a hub's dataset, which states it."""
        if not hub_names.is_hub(path):
            return cls(Path(path).name, "unknown", path)
        dataset = hub_names.dataset(path)
        return cls(Path(path).name, assets.licence(dataset), assets.origin(dataset))


@dataclass(frozen=True)
class FetchedTable:
    """A table in the manifest, as `item`, or your own file in its place."""

    name: str
    item: str

    def __call__(self, *, path: str, split: str, data: DataConfig, seed: int) -> Source:
        # Your own file in its place keeps the dataset's name and licence, whose form it has.
        file = Path(path) if path else self._file()
        examples = read_split(file, split, data.columns, tuple(held_out_files(data)))
        origin = Origin.of_item(self.name, self.item)
        return table_source(origin, split, examples, examples.table.sha256)

    def _file(self) -> Path:
        # Beside the data there are a licence and a readme.
        folder = assets.path(self.item)
        fetched = assets.provenance(self.item)["files"]
        names = [name for name in fetched if table_readers.is_table(name)]
        if len(names) != 1:
            raise UserError(
                f"{self.item}: expected one data file in {folder}, found"
                f" {', '.join(names) or 'none'}"
            )
        return folder / names[0]


@dataclass(frozen=True)
class FetchedDocuments:
    """Files of documents in the manifest, as `item`, or your own in their place."""

    name: str
    item: str

    def __call__(self, *, path: str, split: str, data: DataConfig, seed: int) -> Source:
        origin = Origin.of_item(self.name, self.item)
        if path:
            return documents_at(Path(path), split, data, origin)
        files, sha256 = self._files()
        return document_source(origin, split, files, data, splits_to_carve(data), sha256)

    def _files(self) -> tuple[list[Path], str]:
        """The files and the hash of their hashes."""
        # The hashes are from the time of the download: a corpus is not read again at every start.
        folder, fetched = assets.path(self.item), assets.provenance(self.item)["files"]
        names = sorted(filter(table_readers.is_table, fetched))
        if not names:
            raise UserError(
                f"{self.item}: expected files of documents in {folder}, found"
                f" {', '.join(fetched) or 'none'}"
            )
        hashes = "".join(fetched[name]["sha256"] for name in names)
        return [folder / name for name in names], hashlib.sha256(hashes.encode()).hexdigest()


def documents(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Your own documents: a file or folder whose rows have a field text or content."""
    if not path:
        raise UserError(
            "config.data.source=documents needs config.data.path=FILE.jsonl (or .parquet, or a"
            " folder)"
        )
    origin = Origin(Path(path).name, "unknown", str(Path(path)))
    return documents_at(Path(path), split, data, origin)


def jsonl(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Your own file or folder of prompts and responses, or conversations."""
    if not path:
        raise UserError("config.data.source=jsonl needs config.data.path=FILE.jsonl")
    examples = read_split(Path(path), split, data.columns, tuple(held_out_files(data)))
    return table_source(Origin.of_path(path), split, examples, examples.table.sha256)


def hf(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """A hub's dataset of prompts and responses, hf:ORG/NAME[@REVISION][:CONFIG][:SPLIT]."""
    if not path:
        raise UserError("config.data.source=hf needs a dataset: hf:ORG/NAME:CONFIG:SPLIT")
    dataset = path if hub_names.is_hub(path) else hub_names.PREFIX + path
    return jsonl(path=dataset, split=split, data=data, seed=seed)


def tfds(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """A dataset prepared by tensorflow-datasets, in the array_record format."""
    from lfl_jax.data.tfds_source import read_tfds

    if not path:
        raise UserError("config.data.source=tfds needs the folder of a prepared dataset: tfds:DIR")
    examples, sha256 = read_tfds(Path(path), split, data.columns, tuple(held_out_files(data)))
    return table_source(Origin(examples.table.name, "unknown", path), split, examples, sha256)


def held_out_files(data: DataConfig) -> dict[str, str]:
    """{split: file} of your own held-out files."""
    files = {"dev": data.dev_path, "test": data.test_path}
    return {split: path for split, path in files.items() if path}


def files_of_split(path: Path, split: str) -> list[Path]:
    """The files of one split, or all where the path has no splits."""
    files = table_splits.files_by_split(path)
    return files.get(split) or files["train"]


def documents_at(path: Path, split: str, data: DataConfig, origin: Origin) -> Source:
    """A split of the documents at a path: its own files, else 2 % of the training documents."""
    files = table_splits.files_by_split(path)
    # A split of its own is taken as it is. Others are carved out of the training documents, which
    # then lack them.
    if split != "train" and split in files:
        return document_source(origin, split, files[split], data, carved=())
    return document_source(origin, split, files["train"], data, splits_to_carve(data, files))


def splits_to_carve(data: DataConfig, in_files: Collection[str] = ()) -> tuple[str, ...]:
    """Held-out splits that no file has, and that come out of the training documents."""
    held_out = {*in_files, *held_out_files(data)}
    return tuple(split for split in SPLITS[1:] if split not in held_out)


def table_source(origin: Origin, split: str, examples: TableExamples, sha256: str) -> Source:
    """A source of the rows of a table."""
    return Source(
        name=origin.name,
        split=split,
        examples=examples,
        licence=origin.licence,
        sha256=sha256,
        seed=None,
        synthetic=False,
        description=origin.about,
        columns=examples.used,
    )


def document_source(
    origin: Origin,
    split: str,
    files: Sequence[Path],
    data: DataConfig,
    carved: tuple[str, ...],
    sha256: str | None = None,
) -> Source:
    """A source of the documents in these files; carved: splits that are taken from among them."""
    (column,) = columns.parse(data.columns).text or ("",)
    return Source(
        name=origin.name,
        split=split,
        examples=read_documents(files, split, column, carved),
        licence=origin.licence,
        sha256=sha256 or sha256_of_files(files),
        seed=None,
        synthetic=False,
        description=origin.about,
    )
