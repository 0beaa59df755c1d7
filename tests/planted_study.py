"""A study of runs whose answer is planted: scores of two methods as CSV files, and its findings."""

import numpy as np
from scipy import stats

from lfl_jax.studies import records, runs
from lfl_jax.studies.answers import Question
from lfl_jax.studies.arms import Measure, Measures
from lfl_jax.studies.findings import find

ITEMS, SEEDS = 120, 4
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
MEASURES = Measures(Measure("target", "score"), Measure("source", "score"))


def write_study(
    folder, penalty=0.15, methods=("full", "lora"), failed=(), seeds=SEEDS, divergence=False
):
    """Item scores of every run, and the list of runs; the first method forgets `penalty` more.

    With a divergence, forgetting is its logarithm and nothing else.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    difficulty = rng.normal(0, 0.8, (2, ITEMS))
    write_scores(folder / "base.csv", rng, difficulty, 0.02, 0.95)
    lines = ["method,lr,seed,step,folder,reason"]
    for index, method in enumerate(methods):
        for lr in RATES:
            learned = 0.95 * np.exp(-(((np.log10(lr) + 2.7) / 1.2) ** 2))
            forgotten = 0.4 * learned + (penalty if index == 0 else 0.0)
            for seed in range(seeds):
                if (method, lr, seed) in failed:
                    lines.append(f"{method},{lr},{seed},160,,loss was not finite at step 12")
                    continue
                name = f"{method}-{lr}-{seed}.csv"
                kl = np.exp((forgotten - 0.5) / 0.2) if divergence else None
                write_scores(folder / name, rng, difficulty, learned, 0.95 - forgotten, kl)
                lines.append(f"{method},{lr},{seed},160,{name},")
    (folder / "runs.csv").write_text("\n".join(lines) + "\n")
    return folder


def write_scores(path, rng, difficulty, target, source, kl=None):
    lines = ["run,item,score,cluster,task"]
    for task, probability, hard in zip(
        ("target", "source"), (target, source), difficulty, strict=True
    ):
        latent = stats.norm.ppf(np.clip(probability, 0.01, 0.99)) * 1.28 + hard
        for item, correct in enumerate(latent + rng.normal(size=ITEMS) > 0):
            lines.append(f"{path.stem},i{item},{int(correct)},c{item // 2},{task}")
    for text in range(20 if kl else 0):
        lines.append(f"{path.stem},t{text},{kl * np.exp(rng.normal(0, 0.05))},t{text},kl")
    path.write_text("\n".join(lines) + "\n")


def answer(folder, **changes):
    options = {"measures": MEASURES, "margin": 0.03} | changes
    (base,) = records.read(str(folder / "base.csv"))
    return find(base, runs.read(folder / "runs.csv"), Question(**options))
