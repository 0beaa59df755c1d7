"""Does training forget more, the farther its target is from what the base knows?

    python -m lfl_jax.study --config=configs/studies/domain_shift.py --workdir=studies/domain_shift

Claim: "LoRA Learns Less and Forgets Less" (arXiv 2405.09673, section 4.2) finds that code makes a
model forget more than maths does; OpenWebMath, full of English sentences (section 3.1), makes it
forget least. Tables S2 and S4, of Llama-2-7B (base .671) after 20B tokens: full finetuning .545 on
code and .618 on maths, but LoRA r 256 .617 and .616. Two such targets differ in more than distance.
Here they are one language of the lab, of which only the share of transitions in common with the
source's differs: 1, .9, .75, .5 and 0. The distance is measured, as the base's loss on the target
and as the KL of its tokens' frequencies from the source text's; the report has both among the
predictors of forgetting. Refuted where forgetting has no slope over the base's loss beyond the
margin, at equal rates.

Held equal are steps, tokens, optimizer and rates. A farther target has more to learn (all have one
entropy, the least loss that is possible), so that at equal rates distance and learning rise
together: a second rule compares neighbouring targets where both losses fell by as much, at which
the farther one has the lower rate. Forgetting is of facts, which no target contradicts; the farther
ones contradict the source's text by construction, whose loss is therefore no evidence here.
LoRA and full finetuning, five rates each, 4 seeds: 200 runs of 9 s of CPU time in the lab, of which
configs/studies/lab.py:cpt has 28.
Measured (results/studies/domain_shift, synthetic), at equal rates, from the nearest target to the
farthest: full finetuning forgets 0.21 [0.19, 0.23] of the facts more, LoRA 0.46 [0.43, 0.49]. At
equal learning neighbouring targets share too little of what they learned to be compared; on the
target .5 LoRA forgets 0.057 [0.044, 0.069] more than full finetuning, on .75 as much.
Argument:
    smollm2    paragraphs of Wikipedia, maths text and code in place of the languages, two rates and
               2 seeds: 24 runs. Texts differ in more than their distance there
    quick      targets 1, .75 and 0, two rates, 2 seeds: 24 runs in the lab
Not at the paper's size: those would be its own runs of 20B tokens, whose results are above.
"""

from lfl_jax.configs.studies import base, lab, smollm2
from ml_collections import config_dict

# Of the source's transitions.
SHARES = (1.0, 0.9, 0.75, 0.5, 0.0)
# The lowest for far targets, which learn as much there as near ones do at the highest.
RATES = {"lora,r=16": (1e-4, 2e-4, 3e-4, 1e-3, 3e-3), "full": (3e-5, 5e-5, 1e-4, 3e-4, 1e-3)}
# Nearest first, as their names say: the base has read much like the first.
TEXTS = ("wikipedia_paragraphs", "math_text", "python_source")


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    base.refuse_unknown([argument], ("smollm2", "quick"), "domain_shift.py")
    s = texts() if argument == "smollm2" else languages(quick=argument == "quick")
    s.unigrams = True
    return s


def languages(quick: bool) -> config_dict.ConfigDict:
    """The lab's, by how many transitions they share."""
    s = lab.get_config("cpt")
    s.name = "The lab: targets at several distances from what the base knows"
    s.arms = config_dict.ConfigDict()
    for share in SHARES[::2] if quick else SHARES:
        for words, rates in RATES.items():
            name = f"{words.partition(',')[0]}_{100 * share:.0f}"
            lr = rates[-2:] if quick else rates
            s.arms[name] = base.arm(words, lr=lr, data={"shared": share})
    s.seeds = (0, 1) if quick else (0, 1, 2, 3)
    far, middle = ("0", "75") if quick else ("50", "75")
    s.contrasts = tuple((f"{kind}_{far}", f"{kind}_{middle}") for kind in ("lora", "full"))
    s.contrasts += tuple((f"lora_{share}", f"full_{share}") for share in (far, middle))
    return s


def texts() -> config_dict.ConfigDict:
    """SmolLM2-135M on texts of its own languages."""
    s = smollm2.shared()
    s.name = "SmolLM2-135M: targets at several distances from what the base knows"
    s.base = "math_cpt"
    # Documents are long: the code's have some thousand tokens each.
    counts = ("target_nll:16", "target_kl:16", "source_nll:16", "source_kl:16")
    s.config.eval.tasks = (*counts, "hellaswag:40", "arc_challenge:40", "winogrande:40")
    for source in TEXTS:
        name = source.partition("_")[0]
        s.arms[f"lora_{name}"] = base.arm("lora,r=16", lr=(2e-4, 1e-3), data={"source": source})
        s.arms[f"full_{name}"] = base.arm("full", lr=(1e-5, 1e-4), data={"source": source})
    s.seeds = (0, 1)
    s.contrasts = (("lora_python", "lora_math"), ("full_python", "full_math"))
    return s
