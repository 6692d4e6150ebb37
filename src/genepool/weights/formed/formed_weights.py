"""A base with a form that does not fold: it stands wherever a model is asked, and nowhere else.

`Network.load` builds the base and puts the form in. Who wants tensors instead is told why there are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.weights.change import BaseWithChange, fingerprint_of
from genepool.weights.formed.adapter_form import LinearForm
from genepool.weights.formed.attached import Attached
from genepool.weights.formed.form_change import FormChange
from genepool.weights.formed.form_folder import FormFolder
from genepool.weights.formed.form_on_base import FormOnBase
from genepool.weights.naming import in_memory_layout, put_on
from genepool.weights.tensor_info import TensorInfo
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch


class FormedWeights(Weights):
    """A base with a form that does not fold. Its tensors are none: `read` says why.

    Args:
        base: the model that the form stands on.
        folder: the form on this base.
        name: what the user calls the whole.
        task: number of the task that it is asked, for forms with parts for each; -1 for none of them.
    """

    def __init__(self, base: Weights, folder: FormOnBase, name: str, task: int = -1) -> None:
        self.base, self.formed, self.name, self.task = base, folder, name, task
        self.folder, self.config = base.folder, base.config
        self.chat_template, self.control = base.chat_template, base.control

    @property
    def tokenizer_folder(self) -> Path | None:
        return self.base.tokenizer_folder

    def names(self) -> tuple[str, ...]:
        return self.base.names()

    def aliases(self) -> Mapping[str, str]:
        return self.base.aliases()

    def stored_names(self) -> tuple[str, ...]:
        return self.base.stored_names()

    def info(self, name: str) -> TensorInfo:
        return self.base.info(name)

    def read(self, name: str) -> torch.Tensor:
        form = self.formed.form
        raise InputError(
            f"the form {form.name} does not fold into weights: {form.why_no_fold}",
            where=self.formed.path,
            fix="Ask the model as it is, or train a form that folds",
        )

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        task = f"#{self.task}" if self.task >= 0 else ""
        return fingerprint_of("form", self.base, self.formed.digest() + task)

    def attached(self, network: Any) -> Attached:
        """Puts the form into a network of the base.

        Args:
            network: transformers' network, which is changed in place.
        """
        like = next(network.parameters())
        kind = like.dtype if like.dtype.is_floating_point else None
        tensors = {name: one.to(like.device, kind) for name, one in self.formed.tensors.items()}
        found = Attached(self.formed.form, network, self.formed.sites, tensors, self.formed.seed)
        found.task = self.task
        return found


def form_on(base: Weights, path: Path, name: str, task: str | None = None) -> Weights:
    """A base with the form in a folder: plain weights where it folds.

    Args:
        base: the model that the form was trained on.
        path: the folder.
        name: what the user calls the whole.
        task: what stands behind `#`, for forms with parts for each task.

    Raises:
        InputError: as `FormFolder`, or it has no parts for this task.
    """
    folder = FormFolder(path, base)
    number = folder.task(task)
    if not isinstance(folder.form, LinearForm) or not folder.form.folds:
        return FormedWeights(base, folder, name, number)
    change = FormChange(folder, in_memory_layout(base), number, name)
    return BaseWithChange(base, put_on(base, change), name)
