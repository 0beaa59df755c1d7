"""Where the lab's base lies: pretrained here, once, and cached by what it was trained on.

`lfl_jax.lab_base` trains it; this says which one a run needs and where it is.
"""

import functools
from pathlib import Path

from lfl_jax import assets
from lfl_jax.config import Config, DataConfig
from lfl_jax.data.lab import vocabulary
from lfl_jax.data.sources import open_source
from lfl_jax.errors import UserError
from lfl_jax.models.presets import LAB
from lfl_jax.text.tokenizer import Tokenizer
from lfl_jax.text.word_level import word_level

FOLDER = "lab"  # of the cache


def is_needed(config: Config) -> bool:
    """Whether a run starts from a base of the lab's that is not named by path."""
    model = config.model
    return model.name in LAB and model.init == "pretrained" and not model.path


def pretraining(config: Config) -> Config:
    """The config that trains the base of this run: of its size, in its world, and nothing else."""
    from lfl_jax.configs import lab

    # Nothing else of the run counts: a base is shared by every method and seed of a study.
    wanted = lab.get_config("pretrain")
    wanted.model.name, wanted.data.world = config.model.name, config.data.world
    return Config.from_dict(wanted)


def place(training: Config) -> Path:
    """The folder of the base that this config trains, whether it is there or not.

    Its name holds the hash of the config, and that of the examples: a world that is drawn otherwise
    is another base.
    """
    # The config does not change when the code that generates the examples does.
    examples = _examples_sha256(training.data, training.seed.data)
    name = f"{training.model.name}-{training.hash()}-{examples[:8]}"
    return assets.scratch(FOLDER) / name


# Once per process: a run asks for its base's folder three times, and a study has many runs.
@functools.lru_cache(maxsize=8)
def _examples_sha256(data: DataConfig, seed: int) -> str:
    return open_source(data, "train", seed).sha256


def existing(config: Config) -> Path:
    """The base of a run; UserError with what trains it where it is not there."""
    folder = place(pretraining(config))
    if not folder.exists():
        raise UserError(
            f"the base {config.model.name} of world {config.data.world} is not trained yet:"
            " python -m lfl_jax.main --config=configs/lab.py --workdir=DIR trains it first"
        )
    return folder


def tokenizer() -> Tokenizer:
    """A token per word of the lab."""
    return word_level(vocabulary.SPECIALS, vocabulary.all_words())
