"""Where tensors are computed with: checks a device's name before anything heavy begins."""

from __future__ import annotations

from genepool.errors import InputError


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
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"cannot compute on '{device}' ({reason})",
            where="--device",
            fix="Say cpu, or cuda on a machine with one",
        ) from None
