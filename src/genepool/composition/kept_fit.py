"""What a fit keeps so that it goes on after Ctrl-C or a kill, and its looks at held-out inputs.

`WORK/fit.safetensors` is replaced as a whole after every look: what is learned, Adam's moments, the best state so far,
and in its header what the fit is, so that another one never goes on from it. Uses staging.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genepool import progress, staging
from genepool.checked import is_number, is_whole, parsed_json
from genepool.errors import InputError
from genepool.training import Diverged

if TYPE_CHECKING:
    import torch

_FILE = "fit.safetensors"


class KeptFit:
    """The state of a fit on the disk.

    Args:
        work: the folder; None keeps nothing.
        identity: everything that decides the bits of the result, as plain data.

    Attributes:
        notes: what is kept beside the state and given back by `noted`; it does not say which fit it is.
    """

    def __init__(self, work: Path | None, identity: Mapping[str, Any]) -> None:
        self._path = self.place = None if work is None else work / _FILE
        self._key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.notes: dict[str, Any] = {}

    def put(self, tensors: Mapping[str, torch.Tensor], said: Mapping[str, Any]) -> None:
        """Replaces what is kept."""
        from safetensors.torch import save

        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        staging.write_bytes(
            self._path, save(held, {"fit": self._key, "said": json.dumps(said), "notes": json.dumps(self.notes)})
        )

    def read(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """What is kept of this very fit; None where nothing is."""
        from safetensors import SafetensorError, safe_open

        if self._path is None or not self._path.is_file():
            return None
        try:
            with safe_open(self._path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            said = parsed_json(metadata.get("said"))
        except (OSError, ValueError, SafetensorError):
            progress.message(f"{self._path}: cannot be read, so the fit begins again")
            return None
        if metadata.get("fit") != self._key or not isinstance(said, dict):
            progress.message(f"{self._path.parent}: is of another fit, so this one begins again")
            return None
        return tensors, said

    def noted(self) -> dict[str, Any]:
        """The notes that are kept of this very fit; empty where there are none."""
        from safetensors import SafetensorError, safe_open

        if self._path is None or not self._path.is_file():
            return {}
        with suppress(OSError, ValueError, SafetensorError), safe_open(self._path, "pt") as file:
            metadata = file.metadata() or {}
            notes = parsed_json(metadata.get("notes"))
            if metadata.get("fit") == self._key and isinstance(notes, dict):
                return notes
        return {}


class TakesSteps(Protocol):
    """What is fitted: an `Optimiser`, or whatever else takes steps."""

    def trained(self) -> dict[str, torch.Tensor]:
        """What is learned, by name."""

    def state(self) -> dict[str, torch.Tensor]:
        """What the next step depends on besides its gradient."""

    def restore(self, state: Mapping[str, torch.Tensor], step: int) -> None:
        """Puts back what `state` gave after `step` steps."""


class HeldOutLooks:
    """The looks at the held-out inputs: the best state, and when to stop.

    Args:
        kept: where the state is kept after each.
        optimiser: holds what is learned.
        patience: looks in a row without a lower loss after which the fit ends; 0 for no end.
        averages: what belongs to the state and no gradient moves, such as the running means of a batch normalisation,
            by name: the very tensors.
        least: what a state must keep of the share that control tasks had right at the start, to be the best one.

    Attributes:
        losses: of every step.
        history: the held-out loss by step.
        controls: what control tasks have right, by step; empty where there are none.
        best_step: the step of the lowest; the latest where nothing is held out.
        ended: whether the fit is to end.
    """

    def __init__(
        self,
        kept: KeptFit,
        optimiser: TakesSteps,
        patience: int,
        averages: Mapping[str, torch.Tensor] | None = None,
        least: float = 0.0,
    ) -> None:
        self._kept, self._optimiser, self._patience, self._least = kept, optimiser, patience, least
        self._averages = dict(averages or {})
        self.losses: list[float] = []
        self.history: list[tuple[int, float]] = []
        self.controls: list[tuple[int, float]] = []
        self.best_step, self.ended = 0, False
        self._best: dict[str, torch.Tensor] = {}
        self._worse = 0

    def add(self, step: int, loss: float | None, control: float | None = None) -> bool:
        """Takes a look in and keeps the state.

        Args:
            step: how many steps were taken.
            loss: of the held-out inputs; None where there are none.
            control: share of what control tasks hold out that is right; None where there are none.

        Returns:
            Whether the fit is to end.

        Raises:
            Diverged: the loss is no finite number.
        """
        if loss is not None and not math.isfinite(loss):
            raise Diverged(step, "validation loss after")
        if loss is not None:
            self.history.append((step, loss))
        if control is not None:
            self.controls.append((step, control))
        held = control is None or control >= self._least * self.controls[0][1]
        if held and (loss is None or not self._best or loss < dict(self.history)[self.best_step]):
            self._best = {name: tensor.clone() for name, tensor in self._learned().items()}
            self.best_step, self._worse = step, 0
        else:
            self._worse += 1
        self.ended = 0 < self._patience <= self._worse
        state = {f"state:{name}": tensor for name, tensor in self._optimiser.state().items()}
        state |= {f"average:{name}": tensor for name, tensor in self._averages.items()}
        state |= {f"best:{name}": tensor for name, tensor in self._best.items()}
        said = {"step": step, "best": self.best_step, "worse": self._worse, "losses": self.losses}
        self._kept.put(state, {**said, "history": self.history, "controls": self.controls})
        return self.ended

    @property
    def begun(self) -> bool:
        """Whether a look was taken, now or before the fit was stopped."""
        return bool(self._best)

    def best(self) -> dict[str, torch.Tensor]:
        """What was learned at the best look, and the averages then."""
        return self._best

    def _learned(self) -> dict[str, torch.Tensor]:
        return {**self._optimiser.trained(), **self._averages}

    def resume(self) -> int:
        """Puts back what is kept; the number of steps that were taken."""
        found = self._kept.read()
        if found is None:
            return 0
        tensors, said = found
        try:
            step = self._put_back(tensors, said)
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"what is kept of the fit is damaged ({error})",
                where=self._kept.place or "fit",
                fix="Remove it: the fit begins again",
            ) from None
        progress.message(f"going on after step {step}")
        return step

    def _put_back(self, tensors: Mapping[str, torch.Tensor], said: Mapping[str, Any]) -> int:
        step, losses, history, controls = said["step"], said["losses"], said["history"], said["controls"]
        if not (is_whole(step, 0) and is_whole(said["best"], 0) and is_whole(said["worse"], 0)):
            raise ValueError("a step is no whole number")
        looks = [*history, *controls]
        if not all(map(is_number, losses)) or not all(is_whole(at, 0) and is_number(value) for at, value in looks):
            raise ValueError("a loss is no number")
        parts: dict[str, dict[str, torch.Tensor]] = {"state": {}, "average": {}, "best": {}}
        for name, tensor in tensors.items():
            kind, _, own = name.partition(":")
            parts[kind][own] = tensor
        self._optimiser.restore(parts["state"], step)
        for kind, expected in (("average", self._averages), ("best", self._learned())):
            if {n: t.shape for n, t in parts[kind].items()} != {n: t.shape for n, t in expected.items()}:
                raise ValueError(f"its {kind} state has other shapes")
        for name, tensor in self._averages.items():
            tensor.copy_(parts["average"][name])
        self._best, self.best_step, self._worse = parts["best"], said["best"], said["worse"]
        self.losses, self.history = list(losses), [(at, loss) for at, loss in history]
        self.controls = [(at, right) for at, right in controls]
        self.ended = 0 < self._patience <= self._worse
        return step
