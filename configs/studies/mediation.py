"""What explains forgetting: the divergence from the base, the weights' change, or the method?

    python -m lfl_jax.study --config=configs/studies/mediation.py --workdir=studies/mediation

Claims: forgetting is a function of the divergence from the base on the new task, whatever the
method, and distances and ranks of the weights explain it worse (arXiv 2509.04259); intruder
dimensions cause LoRA's forgetting (arXiv 2410.21228); a method's best rate falls with the top
Hessian eigenvalue at step 0 (arXiv 2602.04998). Refuted where the method's term of the regression
that has the divergence lies outside of the margin, or another predictor has the higher R2. LoRA of
three ranks and both ways of full finetuning over all their rates, 5 seeds, with every weight's
change measured: 150 runs in the lab, those of configs/studies/lab.py.
Measured (results/studies/mediation, synthetic), of forgetting's variance: the norm of the change
explains 82 [79, 85] %, intruder dimensions 74 %, the learning rate 65 %, the divergence 3 %, which
is less than chance (7 %). Best rates go with the eigenvalue to the power -0.57 [-0.88, -0.26] over
5 arms, with LoRA's rank to -0.53 [-0.88, -0.18]; neither holds after correction for all claims.
Argument: smollm2 (80 runs), or paper (120 runs)
"""

from lfl_jax.configs.studies import worlds
from ml_collections import config_dict


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    world = worlds.of(argument, "mediation.py")
    s = world.study("what explains forgetting")
    for rank in world.lora:
        if rank > 1:
            s.arms[f"lora{rank}"] = world.lora_arm(rank=rank)
    s.arms.full, s.arms.full_linear = world.full_arm(), world.full_arm("full_linear")
    s.weights, s.curvature = True, 1
    middle = f"lora{world.middle}"
    s.contrasts = ((middle, "full"), (middle, "full_linear"))
    return s
