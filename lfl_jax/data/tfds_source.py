"""tensorflow-datasets folders in the array_record format, read and written without TensorFlow."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lfl_jax.assets.tables import Shard, Table, read_table
from lfl_jax.core import files
from lfl_jax.data.rows import TableExamples, split_examples
from lfl_jax.data.splits import SPLITS
from lfl_jax.errors import UserError

# Names under which a dataset may hold each split, in order of preference.
NAMES = {"train": ("train",), "dev": ("dev", "validation"), "test": ("test",)}


def read_tfds(
    folder: Path, split: str, columns: str = "", elsewhere: Sequence[str] = ()
) -> tuple[TableExamples, str]:
    """Examples of a split of a prepared dataset, and the SHA-256 of the files they are in.

    dev and test are the dataset's own where it has them, else 2 % each of the clusters of its train
    split, but for those that are held out elsewhere. columns: config.data.columns.
    """
    builder = _open(folder)
    dataset_splits = {}
    for split_name in SPLITS:
        names = [name for name in NAMES[split_name] if name in builder.info.splits]
        if names:
            dataset_splits[split_name] = names[0]
    if "train" not in dataset_splits:
        raise UserError(f"{folder}: no train split; it has {', '.join(builder.info.splits)}")

    table = _table(builder, dataset_splits.get(split, "train"))
    if split != "train" and split in dataset_splits:
        carved = ()  # the table is this split alone
    else:
        carved = tuple(s for s in SPLITS if s not in dataset_splits and s not in elsewhere)
    return split_examples(table, split, carved, columns), table.sha256


def _library():
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            "tfds sources need tensorflow-datasets: pip install 'lfl_jax[tfds]'"
        ) from error
    return tensorflow_datasets


def _open(folder: Path):
    if not (folder / "dataset_info.json").is_file():
        raise UserError(
            f"{folder} is not a prepared tensorflow-datasets folder: it has no dataset_info.json"
        )
    builder = _library().builder_from_directory(folder)
    kind = builder.info.file_format.value
    if kind != "array_record":
        raise UserError(
            f"{folder} is in the {kind} format, which needs TensorFlow; prepare it as array_record"
        )
    return builder


def _table(builder, split: str) -> Table:
    # A data source reads single records, without TensorFlow.
    rows = builder.as_data_source(split=split)
    sha256 = hashlib.sha256()
    for name in sorted(builder.info.splits[split].filenames):
        # A hash of the files' hashes, in the order of their names.
        sha256.update(bytes.fromhex(files.sha256(Path(builder.data_dir) / name)))
    name = f"{builder.info.full_name}/{split}"
    return Table(
        name, (Shard(name, range(1, len(rows) + 1), rows.__getitem__),), sha256.hexdigest()
    )


def prepare_jsonl_as_tfds(path: Path, data_dir: Path, name: str) -> Path:
    """Write a JSONL file as an array_record dataset with three splits; returns its folder.

    It is written under a temporary name and renamed, so an interrupted preparation leaves no
    dataset.
    """
    tfds = _library()
    table = read_table(path)
    splits = {split: split_examples(table, split) for split in SPLITS}
    text = tfds.features.Text()

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {"prompt": text, "response": text, "cluster": text}
            )
            about = f"{path.name}, SHA-256 {table.sha256}"
            return tfds.core.DatasetInfo(
                builder=self, description=about, features=features, disable_shuffling=True
            )

        def _split_generators(self, download_manager):
            return {split: self._generate_examples(examples) for split, examples in splits.items()}

        def _generate_examples(self, examples: Sequence) -> Iterator[tuple[int, Mapping]]:
            for i, example in enumerate(examples):
                yield (
                    i,
                    {
                        "prompt": example.prompt,
                        "response": example.response,
                        "cluster": example.cluster,
                    },
                )

    # tfds would name the dataset after this class.
    Builder.name = name
    builder = Builder(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)
