"""Where tensors are computed: checks a device's name before anything heavy begins, and makes it ready for threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from genepool.errors import InputError

if TYPE_CHECKING:
    import torch

# torch has smaller floating-point types too, which tensors are stored in and hardly anything computes in.
COMPUTED_IN = ("float32", "bfloat16", "float16", "float64")

_beginning = threading.Lock()
_begun: set[str] = {"cpu"}


def check_device(device: str) -> None:
    """Refuses a device that is not there.

    Raises:
        InputError: torch does not know the name, or the machine has no such device.
    """
    if device == "cpu":
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        # torch names every kind of device there is, or what of CUDA it was built without.
        unknown = "Expected one of" in str(error) or "Invalid device string" in str(error)
        why = "torch knows no such device" if unknown else "this machine or this torch has none"
        raise InputError(
            f"got '{device}', which cannot be used here ({why})",
            where="--device",
            fix="Use cpu, or cuda on a machine with a GPU",
        ) from None


def check_dtype(dtype: str) -> None:
    """Refuses a type that models do not compute in.

    Raises:
        InputError: the name is none of `COMPUTED_IN`.
    """
    if dtype not in COMPUTED_IN:
        raise InputError(
            f"got {dtype!r}, expected a known type", where="--dtype", fix=f"Use one of {', '.join(COMPUTED_IN)}"
        )


def begin_linear_algebra(device: torch.device) -> None:
    """Lets torch load its linear algebra for a device, once, in one thread.

    It loads that part when a factorisation is first asked for, and fails with "lazy wrapper should be called at most
    once" when several threads are the first.
    """
    if device.type in _begun:
        return
    import torch

    with _beginning:
        if device.type not in _begun:
            torch.linalg.inv(torch.ones(1, 1, device=device))
            _begun.add(device.type)
