"""Every field of a study, with its unit and legal values. The other studies start from `study()`.

`lfl_jax.studies.grid` turns the result into frozen dataclasses and into the configs of its runs.
"""

from ml_collections import config_dict


def study() -> config_dict.ConfigDict:
    """An empty study: base, arms, measures and margin have to be set."""
    s = config_dict.ConfigDict()
    # in the title of the report
    s.name = ""
    # the config that all runs start from: a name with words, as "math_ift:smoke", or FILE.py:WORDS
    s.base = ""
    # {name: arm()}, at least two; a name is of letters, digits, "_", "." and "+"
    s.arms = config_dict.ConfigDict()
    # config fields of all runs in place of the base's, in sections: {"train": {"batch": 4}}
    s.config = config_dict.ConfigDict()
    # optimizer steps; a run of each length has a whole schedule of its own
    s.steps = ()
    # indices of the seeds, whole numbers >= 0; index i sets seed.init = 4i, seed.data = 4i + 1,
    # seed.dropout = 4i + 2 and seed.sample = 4i + 3, so that no two streams share a number. What
    # generated sources generate and a random base stay those of the base config
    s.seeds = (0, 1, 2, 3, 4)
    # TASK/METRIC of the learning, of the forgetting, and of the divergence from the base ("" =
    # not measured)
    s.learning = ""
    s.forgetting = ""
    s.divergence = ""
    # the difference in forgetting that nobody would care for, in the measure's unit, > 0
    s.margin = 0.02
    # pairs of arms, ("lora", "full"): the first against the second, at most 4; () = all pairs
    s.contrasts = ()
    return s


def arm(
    words: str = "", lr: tuple[float, ...] = (), **config: dict | tuple[str, ...]
) -> config_dict.ConfigDict:
    """A method of a study.

    words: added to the base config's, as "lora,r=16". lr: peak learning rates, of which at least
    two are needed to draw a frontier. config: fields in sections, adapter={"rank": 4}, and
    trainable=(...), which is in none.
    """
    a = config_dict.ConfigDict()
    a.words = words
    a.lr = lr
    a.config = config_dict.ConfigDict(config)
    return a
