"""How much of a score's differences is noise."""

import math

import numpy as np
from jaxtyping import Float


def floor(values: Float[np.ndarray, "S P"]) -> float:
    """The standard deviation of one run's score over seeds, pooled over cells: the noise floor."""
    return math.sqrt(float(np.mean(np.var(values, axis=0, ddof=1))))


def signal_to_noise(
    scores: Float[np.ndarray, " N"], last_checkpoints: Float[np.ndarray, "N C"]
) -> float:
    """How far models differ, beside how far one model's last checkpoints do (arXiv 2508.13144).

    scores: of N models. last_checkpoints: the score of each one's last C checkpoints. Signal is the
    greatest difference of two models over the mean score; noise is the standard deviation over the
    checkpoints over their mean. Means are taken without their sign: a log-probability has one.
    """
    signal = float(np.ptp(scores)) / abs(float(np.mean(scores)))
    means = np.abs(np.mean(last_checkpoints, axis=1))
    deviations = np.std(last_checkpoints, axis=1, ddof=1) / means
    noise = float(np.mean(deviations))
    return signal / noise if noise > 0 else math.inf
