"""What the tests of PEFT folders share: keys of tensors, and folders that are written or refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from lfl_jax.errors import UserError
from lfl_jax.io import peft
from lfl_jax.io.peft import modules

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
HEAD, EMBED = "base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"


def write(folder, config, tensors, metadata=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / modules.CONFIG).write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors", metadata=metadata)
    return folder


def assert_refused(message, *args, **kwargs):
    with pytest.raises(UserError, match=message) as caught:
        peft.load(*args, **kwargs)
    assert len(str(caught.value).splitlines()) <= 2 and len(str(caught.value)) < 900


def equal(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one.adapter, other.adapter))
