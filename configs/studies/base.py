"""Every field of a study and of a search, with its unit and legal values.

The other studies start from `study()`, searches from `search()`; `lfl_jax.studies.grid` and
`lfl_jax.studies.search` turn them into frozen dataclasses and into the configs of their runs.
"""

from collections.abc import Collection, Iterable

from ml_collections import config_dict


def refuse_unknown(words: Iterable[str], known: Collection[str], file: str) -> None:
    """ValueError for words of a study's argument that its file does not know; "" is none."""
    unknown = sorted({*words} - {"", *known})
    if unknown:
        there = f"there {'is' if len(known) == 1 else 'are'}: {', '.join(known)}"
        raise ValueError(
            f"unknown argument {', '.join(unknown)} of configs/studies/{file}; "
            + (there if known else "it has none")
        )


def study() -> config_dict.ConfigDict:
    """An empty study: base, arms, measures and margin have to be set."""
    s = config_dict.ConfigDict()
    s.kind = "study"
    # in the title of the report
    s.name = ""
    # the config that all runs start from: a name with words, as "math_ift:smoke", or FILE.py:WORDS
    s.base = ""
    # {name: arm() or derived()}, at least two; a name is of letters, digits, "_" and "+"
    s.arms = config_dict.ConfigDict()
    # config fields of all runs in place of the base's, in sections: {"train": {"batch": 4}}
    s.config = config_dict.ConfigDict()
    # task()s, two or more that every run is trained on one after another, in this order: each from
    # what the last ended with, by a fresh optimizer and a whole schedule. () = what the base config
    # trains on. The report then has the task matrix, backward and forward transfer
    s.sequence = ()
    # optimizer steps; a run of each length has a whole schedule of its own
    s.steps = ()
    # indices of the seeds, whole numbers >= 0; index i sets seed.init = 4i, seed.data = 4i + 1,
    # seed.dropout = 4i + 2 and seed.sample = 4i + 3, so that no two streams share a number. What
    # generated sources generate and a random base stay those of the base config
    s.seeds = (0, 1, 2, 3, 4)
    # TASK/METRIC of the learning, of the forgetting, and of the divergence from the base ("" =
    # not measured); mean_of_three/acc is the paper's forgetting, of hellaswag, arc_challenge and
    # winogrande
    s.learning = ""
    s.forgetting = ""
    s.divergence = ""
    # True: also measure the change of every weight of every finished run, norms, ranks and intruder
    # dimensions, into its weights.jsonl; the report compares them as predictors of forgetting
    s.weights = False
    # microbatches of training data over which the top Hessian eigenvalue at step 0 is measured,
    # once for each arm and seed; 0 = not measured. A microbatch costs some 20 to 100 steps' time
    s.curvature = 0
    # True: also measure how far the tokens of each target are from those of the source text, as a
    # predictor of forgetting, into unigrams.json
    s.unigrams = False
    # the difference in forgetting that nobody would care for, in the measure's unit, > 0
    s.margin = 0.02
    # pairs of arms, ("lora", "full"): the first against the second, at most 4; () = all pairs
    s.contrasts = ()
    # weights | all | none: what stays of the checkpoints of a run that finished; its records always
    # do. weights: what trained, enough to evaluate other tasks, to scale or to analyse the change
    # and to export it. all: the optimizer's state, too, twice as large as what trains, to train
    # longer. none: for studies without arms that scale another's runs
    s.checkpoints = "weights"
    return s


def arm(
    words: str = "",
    lr: tuple[float, ...] = (),
    start: str = "path",
    **config: dict | tuple[str, ...],
) -> config_dict.ConfigDict:
    """A method of a study.

    words: added to the base config's, as "lora,r=16". lr: peak learning rates, of which at least
    two are needed to draw a frontier. start: of a later task of a sequence, path = one adapter, or
    the parameters, is trained on; over = a new adapter over the earlier ones, which stay as they
    are. config: fields in sections, adapter={"rank": 4}, and trainable=(...), which is in none.
    """
    a = config_dict.ConfigDict()
    a.words = words
    a.lr = lr
    a.start = start
    a.config = config_dict.ConfigDict(config)
    return a


def task(name: str = "", score: str = "", **config: dict) -> dict[str, object]:
    """A task of a sequence.

    name: as those of arms. score: TASK/METRIC of the task matrix, in the margin's unit, evaluated
    in the runs of all tasks, so that it must not depend on what is trained on, as target_nll does.
    config: fields in sections, data={"source": ...}. A method has one learning rate for all tasks;
    the best is where the mean score over the tasks is best after the last one.
    """
    return {"name": name, "score": score, "config": config}


def derived(
    arm: str = "",
    scales: tuple[float, ...] = (),
    truncate: tuple[int, ...] = (),
    intruders: tuple[float, ...] = (),
    random_directions: tuple[float, ...] = (),
    without: tuple[str, ...] = (),
    shots: tuple[int, ...] = (),
) -> config_dict.ConfigDict:
    """A method without training: the finished runs of another arm, with their change altered.

    arm: its name. One of the others is given, a curve of one run per value; none is scales of .25,
    .5 and .75. A change is an adapter's dW, or the difference of trained parameters.

    scales: factors on the change; 0 is the base, and 1 the run itself. truncate: ranks of the best
    approximation of the change, >= 1. intruders: factors on the intruder dimensions of base and
    change together (arXiv 2410.21228, top 10, epsilon .5); 1 is the run itself. random_directions:
    the control, factors on as many random directions of the same size. without: parts whose change
    is left out, a module ("q"), a group ("attn", "mlp"), a layer ("layers/0") or a module of one
    ("layers/0/mlp/down"). shots: the base in place of the run, asked about the target after so many
    worked training examples, which a seed draws; once for each seed, at the first learning rate.
    """
    d = config_dict.ConfigDict()
    d.of = arm
    d.truncate, d.without = truncate, without
    d.intruders, d.random_directions = intruders, random_directions
    d.shots = shots
    is_alone = truncate or without or intruders or random_directions or shots
    d.scales = scales if scales or is_alone else (0.25, 0.5, 0.75)
    return d


def search() -> config_dict.ConfigDict:
    """An empty search for the best config: base, lr, targets, rank, steps and measure are to be
    set."""
    s = config_dict.ConfigDict()
    s.kind = "search"
    # printed above its tables
    s.name = ""
    # the config that all runs start from, with an adapter that has a rank: "lab", "math_ift:dora"
    s.base = ""
    # config fields of all runs in place of the base's, in sections
    s.config = config_dict.ConfigDict()
    # what is searched, every combination. Peak learning rates and ranks, ascending, at least 3 of
    # them, because the best may not be the lowest or the highest; or a single rank
    s.lr = ()
    s.rank = ()
    # {name: adapter.targets}, at least one; names as those of arms
    s.targets = config_dict.ConfigDict()
    # optimizer steps of each rung, ascending. Its runs have a whole schedule of that length
    s.steps = ()
    # one of so many candidates goes on to the next rung, >= 2
    s.keep = 3
    # indices of the seeds, as a study's. The last rung has all of them, the others the first
    s.seeds = (0, 1, 2)
    # TASK/METRIC that is best, on the dev items: of eval.every_tasks while choosing, and of
    # eval.tasks, on the test items, for the winner alone
    s.measure = ""
    return s
