"""The manifest: what is shipped is complete, and names are resolved with help for typing
mistakes."""

import re

import pytest
from toy_manifest import TEXT, manifest

from lfl_jax import assets
from lfl_jax.errors import UserError


@pytest.mark.parametrize("item", assets.manifest().values(), ids=lambda item: item.name)
def test_shipped_items_are_complete(item):
    assert item.kind in manifest.KINDS
    assert item.licence
    assert item.about
    plain = r"[a-z0-9][a-z0-9-]*|lfl:[A-Za-z0-9-]+"
    assert re.fullmatch(plain, item.name), "the name is a folder and a word on the command line"
    if isinstance(item.origin, assets.Wheel):
        assert re.fullmatch(r"[0-9a-f]{64}", item.origin.sha256)
        assert item.files
        assert all(not name.startswith(("/", "..")) for _, name in item.files)
    else:
        commit = re.fullmatch(r"[0-9a-f]{40}", item.origin.revision)
        assert commit or item.name.startswith("lfl:"), (
            "a commit: a branch can change under a result"
        )
        assert item.origin.patterns
        assert item.origin.repo_type in ("model", "dataset")


def test_groups_name_items_and_share_no_name_with_them():
    for name, members in assets.groups().items():
        assert set(members) <= set(assets.manifest()), name
        assert name not in assets.manifest()


def test_evals_are_what_the_evaluations_read():
    assert {"gsm8k-test", "hellaswag", "winogrande", "arc-challenge"} <= set(
        assets.groups()["evals"]
    )


def test_parse_reads_every_field():
    toy = manifest.parse(TEXT).items["toy"]
    assert toy.origin == assets.Wheel("pkg", "1.0", "00", 3)
    assert toy.files == (("m/a.txt", "a.txt"), ("m/b.txt", "deep/b.txt"))


@pytest.mark.parametrize("line", ["colour = 'red'", "repo_type = 'dataset'"])
def test_an_unknown_field_is_refused(line):
    with pytest.raises(TypeError, match=r"unknown fields"):
        manifest.parse(TEXT.replace('kind = "dataset"', f'kind = "dataset"\n{line}'))


def test_select_expands_groups_keeps_order_and_drops_repeats():
    names = [item.name for item in assets.select(["winogrande", "evals"])]
    assert names[0] == "winogrande"
    assert sorted(names) == sorted(assets.groups()["evals"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("smolm2-135m", "smollm2-135m"), ("eval", "evals"), ("GSM8K-test", "gsm8k-test")],
)
def test_a_near_miss_is_answered_with_the_name(typed, meant):
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        assets.select([typed])


def test_a_name_like_no_other_points_to_the_list():
    with pytest.raises(
        UserError, match=r"nothing called 'zzz' can be fetched: `python -m lfl_jax.fetch --list`"
    ):
        assets.select(["zzz"])


def test_a_branch_of_a_hub_item_is_an_item_of_its_own():
    plain, branch = (
        assets.item(f"lfl:metamath-lora-rank-16-alpha-32{x}") for x in ("", "@epoch-2")
    )
    assert (plain.origin.revision, branch.origin.revision, branch.rank) == ("main", "epoch-2", 16)
    assert (
        branch.name == "lfl:metamath-lora-rank-16-alpha-32@epoch-2"
        and branch.origin.repo == plain.origin.repo
    )
    assert assets.select([branch.name, plain.name]) == (branch, plain)


@pytest.mark.parametrize(
    "name", ["hellaswag@main", "lfl:metamath-lora-rank-16-alpha-32@", "llama2-7b@../x"]
)
def test_a_branch_of_what_has_none_is_refused(name):
    with pytest.raises(UserError, match="expected NAME@BRANCH"):
        assets.item(name)


def test_published_adapters_say_their_rank():
    items = [item for name, item in assets.manifest().items() if name.startswith("lfl:")]
    assert len(items) == 16
    assert all((item.kind == "adapter") == (f"-rank-{item.rank}-" in item.name) for item in items)
