"""Does one percent of replay stop forgetting?

    python -m lfl_jax.study --config=configs/studies/replay.py --workdir=studies/replay

Claim: with 1 % of the pretraining data mixed in, finetuning forgets almost nothing (arXiv
2502.06042). Refuted where replay at 1 % still forgets more than the margin, at equal learning. 0,
0.1, 1 and 5 % for LoRA, 0 and 1 % for full finetuning, 6 rates and 5 seeds: the arms of
configs/studies/controls.py without its shams, 180 runs in the lab. Forgetting is the loss on source
text that no run has seen, since the facts are among what is replayed.
Measured (results/studies/replay, synthetic): with 1 % LoRA forgets 0.020 [0.003, 0.036] nats less
at equal learning, full finetuning 0.021 [0.014, 0.029] more. Where they learn most they have lost
0.019 [0.010, 0.028] and 0.232 [0.124, 0.340] nats with it, margin 0.01: not nothing.
"""

from lfl_jax.configs.studies import base, controls
from ml_collections import config_dict

SHAMS = ("shuffled", "source", "identity")


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study; it has no arguments, since only the lab has its source world to replay."""
    base.refuse_unknown([argument], (), "replay.py")
    s = controls.get_config()
    s.name = "The lab: replay"
    for sham in SHAMS:
        del s.arms[sham]
    return s
