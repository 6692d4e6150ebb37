"""The states of a training on the disk: what is trained and the optimiser's moments after a step, whole or not at all.

`DIR/states/<step>/` is published by rename, so a folder that is there is whole. Uses staging and safetensors.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from genepool.errors import InputError, one_line
from genepool.staging import staged_folder
from genepool.training.optimiser import Optimiser

if TYPE_CHECKING:
    import torch

FOLDER, FILE = "states", "state.safetensors"
#: How the names begin of what is trained beside a model and is no part of the result.
OWN = "objective."


class States:
    """The states that are kept of one run.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / FOLDER

    def kept(self) -> list[int]:
        """The steps whose states are there, in order."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if path.name.isdecimal() and (path / FILE).is_file()]
        return sorted(int(path.name) for path in found)

    def keep(self, step: int, optimiser: Optimiser) -> None:
        """Writes the state after a step; one that is there already stays."""
        self.put(step, optimiser.state())

    def put(self, step: int, state: Mapping[str, torch.Tensor]) -> None:
        """Writes the tensors of a state, by the names that `Optimiser.state` gives them."""
        from safetensors.torch import save_file

        target = self._place(step)
        if target.is_dir():
            return
        self.folder.mkdir(exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        with staged_folder(target) as unfinished:
            save_file(tensors, unfinished / FILE)

    def load(self, step: int) -> dict[str, torch.Tensor]:
        """The tensors of a state, on the processor.

        Raises:
            InputError: the file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._place(step) / FILE
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise self.damaged(step, str(error)) from None

    def restore(self, step: int, optimiser: Optimiser) -> None:
        """Puts a state back.

        Raises:
            InputError: the file is damaged, or of another training.
        """
        state = self.load(step)
        if not step:
            # A fork brings what another objective trained of the model; what this one trains beside it begins anew.
            state = {name: one for name, one in optimiser.state().items() if name.startswith(f"value:{OWN}")} | state
        try:
            optimiser.restore(state, step)
        except (KeyError, ValueError) as error:
            raise self.damaged(step, str(error)) from None

    def forget_all_but(self, steps: Collection[int]) -> None:
        """Removes the states of other steps."""
        for step in set(self.kept()) - set(steps):
            shutil.rmtree(self._place(step), ignore_errors=True)

    def _place(self, step: int) -> Path:
        return self.folder / f"{step:07d}"

    def damaged(self, step: int, why: str) -> InputError:
        """The error of a state that cannot be used."""
        path = self._place(step) / FILE
        return InputError(
            f"the state cannot be used ({one_line(why)})",
            where=path,
            fix=f"Remove {path.parent}: the run then resumes from an earlier state",
        )
