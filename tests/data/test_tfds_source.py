"""tensorflow-datasets folders give the examples they were prepared from, without TensorFlow."""

import json
import sys

import pytest

from lfl_jax.assets.tables import read_table
from lfl_jax.data.rows import split_examples
from lfl_jax.data.sources import open_source
from lfl_jax.data.splits import SPLITS
from lfl_jax.data.tfds_source import prepare_jsonl_as_tfds
from lfl_jax.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets", reason="needs the extra lfl_jax[tfds]")
ROWS = [{"question": f"Combien? {i} é", "answer": f"#### {i}"} for i in range(100)]


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module")
def folder(rows_file):
    return prepare_jsonl_as_tfds(rows_file, rows_file.parent / "tfds", "rows")


@pytest.mark.parametrize("split", SPLITS)
def test_prepared_examples_are_those_of_the_file(make_data, rows_file, folder, split):
    source = open_source(make_data(source=f"tfds:{folder}"), split, 0)
    expected = split_examples(read_table(rows_file), split)
    assert [(e.prompt, e.response) for e in source.examples] == [
        (e.prompt, e.response) for e in expected
    ]
    assert source.examples[0].id == f"rows/1.0.0/{split}:1"
    assert len({e.cluster for e in source.examples}) == len(source.examples)
    assert len(source.sha256) == 64


def test_the_path_field_names_the_folder_too(make_data, folder):
    by_path = open_source(make_data(source="tfds", path=str(folder)), "train", 0)
    assert len(by_path.examples) == 96


def test_nothing_imported_tensorflow(folder):
    assert "tensorflow" not in sys.modules


def build(where, file_format="array_record", **splits):
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "other"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            text = tfds.features.Text()
            features = tfds.features.FeaturesDict({"question": text, "answer": text})
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, download_manager):
            return {name: enumerate(rows) for name, rows in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    builder = Builder(data_dir=where, file_format=file_format)
    builder.download_and_prepare()
    return builder.data_dir


def test_a_dataset_s_own_validation_split_is_dev_and_a_missing_one_is_held_out(make_data, tmp_path):
    data = make_data(source=f"tfds:{build(tmp_path, train=ROWS[:90], validation=ROWS[90:])}")
    prompts = [{e.prompt for e in open_source(data, split, 0).examples} for split in SPLITS]
    assert [len(p) for p in prompts] == [88, 10, 2]
    assert prompts[1] == {row["question"] for row in ROWS[90:]}
    assert len(set.union(*prompts)) == 100


def test_a_dataset_without_a_train_split(make_data, tmp_path):
    with pytest.raises(UserError, match="no train split; it has test"):
        open_source(make_data(source=f"tfds:{build(tmp_path, test=ROWS)}"), "train", 0)


def test_a_format_that_needs_tensorflow(make_data, tmp_path):
    info = tmp_path / "dataset_info.json"
    prepared = build(tmp_path / "a", train=ROWS[:5])
    for file in type(info)(prepared).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(UserError, match="tfrecord format, which needs TensorFlow"):
        open_source(make_data(source=f"tfds:{tmp_path}"), "train", 0)


def test_without_the_library(make_data, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"pip install 'lfl_jax\[tfds\]'"):
        open_source(make_data(source=f"tfds:{folder}"), "train", 0)
