"""All checks by name, and the loop that goes through them: the only list of checks there is."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator

import jax

from lfl_jax.errors import UserError, was_asked_to_stop
from lfl_jax.proofs import (
    adapter,
    decoding,
    gradients,
    kernels,
    machine,
    masters,
    meshes,
    resume,
    text,
)
from lfl_jax.proofs.finding import FAILED, Finding
from lfl_jax.proofs.reduced import ReducedRun

Check = Callable[[ReducedRun], Finding]

CHECKS: dict[str, Check] = {
    "memory fits the plan": machine.check_memory,
    "checkpoints fit the disk": machine.check_disk,
    "sandbox for programs": machine.check_sandbox,
    "template, EOS and loss mask": text.check,
    "float32 masters": masters.check,
    "resume is bit-exact": resume.check,
    "packed = unpacked": gradients.check_packing,
    "accumulation 1 = k": gradients.check_accumulation,
    "step 0: forgetting and KL = 0": adapter.check_identity,
    "laws of composition": adapter.check_laws,
    "merge error": adapter.check_merge,
    "PEFT round trip": adapter.check_files,
    "decoding with a cache": decoding.check,
    "kernel = reference": kernels.check,
    # Last: they are computed in a process of their own meanwhile.
    "sharded = unsharded, gradients": meshes.check_gradients,
    "sharded = unsharded, saved files": meshes.check_files,
    "device order": meshes.check_order,
}


@dataclasses.dataclass(frozen=True)
class Checked:
    """A check that was made, with what it found and how long it took."""

    name: str
    finding: Finding
    seconds: float


def check_all(run: ReducedRun) -> Iterator[Checked]:
    """Every check in order, each yielded as it ends. KeyboardInterrupt where it is to stop."""
    with contextlib.ExitStack() as stack:
        run = dataclasses.replace(run, meshes=functools.cache(_begun(run, stack)))
        for name, check in CHECKS.items():
            start = time.monotonic()
            finding = checked(check, run)
            # To the check a training that was stopped is one that failed.
            if was_asked_to_stop():
                raise KeyboardInterrupt
            yield Checked(name, finding, time.monotonic() - start)


def _begun(run: ReducedRun, stack: contextlib.ExitStack) -> Callable[[], list[meshes.OnMesh]]:
    """What waits for the comparison of devices, which begins at once where it has its own."""
    try:
        step = meshes.step_of(run)
    except Exception:
        # Computed again where it is needed: the checks that need it fail by it.
        return lambda: meshes.on_devices(meshes.step_of(run))
    if jax.device_count() > 1:
        return functools.partial(meshes.on_devices, step)
    return stack.enter_context(contextlib.closing(meshes.Beside(step))).result


def checked(check: Check, run: ReducedRun) -> Finding:
    """What a check found; one that cannot be computed has failed, and the others go on."""
    try:
        return check(run)
    except UserError as error:
        return Finding(FAILED, reason=str(error))
    except Exception as error:
        # Whatever it is, it is what the run itself would end with.
        return Finding(FAILED, reason=f"{type(error).__name__}: {error}")
