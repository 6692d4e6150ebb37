"""Opens what a user names: a folder, a file, a hub model, a URL, or any of these with adapters and skills added.

path/to/model            a Hugging Face folder or one file of weights
org/name, org/name@rev   a model on the Hugging Face hub (the local cache is asked first); hf://org/name too
s3://..., https://...    whatever fsspec reads, fetched into the cache
model+adapter            a PEFT LoRA folder on its base; adapter+model as well
model+adapter.gguf       a LoRA adapter of llama.cpp on its base
model+skill.safetensors  a genepool skill on its base
model+form               a form of adapter that `train --form` made; form#task for one of its tasks
model+prompt             a folder of PEFT's prefix or prompt tuning, which is asked and not merged
composition#task         what a saved composition is for one task, of those that must be told
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from genepool import progress
from genepool.errors import InputError
from genepool.saved_models import folder_and_task, saved_model
from genepool.weights import hub, naming, remote
from genepool.weights.change import BaseWithChange, Change
from genepool.weights.checkpoint import Checkpoint
from genepool.weights.class_head import BaseWithHead, class_head_of, with_head, without_head
from genepool.weights.dequantised import dequantised
from genepool.weights.ema import ema_copies, without_copies
from genepool.weights.formed.form_folder import is_form
from genepool.weights.formed.formed_weights import form_on
from genepool.weights.formed.peft_prompts import is_peft_prompt, peft_prompt_on
from genepool.weights.gguf.adapter_reading import GgufAdapter, is_gguf_adapter
from genepool.weights.model_difference import ModelDifference
from genepool.weights.peft.adapter import PeftAdapter
from genepool.weights.peft.carried_head import carried_head, refuse_random_parts
from genepool.weights.peft.content import AdapterContent
from genepool.weights.peft.fitted_base import fitted
from genepool.weights.peft.folder import CONFIG_FILE
from genepool.weights.quantised import refuse_quantised
from genepool.weights.quantised_base import QuantisedBase, unpacked
from genepool.weights.skill_file import SkillFile, is_skill
from genepool.weights.weights import Weights

Known = Callable[[str], Weights | None]


def open_weights(
    reference: str | Path,
    *,
    relative_to: Path | None = None,
    base: Weights | None = None,
    allow_pickle: bool = False,
    known: Known | None = None,
) -> Weights:
    """Opens the model that `reference` names; reads headers only.

    Args:
        reference: see the list above. A path that exists as written is taken as it is, "+" and "@" included.
        relative_to: folder that relative paths are looked up in first, as recipes do with their own.
        base: an already opened base. When the part before "+" names the same path, it is reused, and a lone
            adapter or skill is put on it. A model of another layout is given in the base's.
        allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.
        known: gives the weights of names that need no opening (the merges inside a recipe), None for all others.

    Raises:
        InputError: nothing is there, or what is there cannot be used.
    """
    text = str(reference)
    if not text.strip():
        raise InputError("the name of the model is empty", fix="Name a folder, a file or a hub model")
    try:
        return _Opener(relative_to, base, allow_pickle, known or (lambda _: None)).open(text)
    except PermissionError as error:
        raise InputError("cannot be read", where=error.filename or text, fix="Check its permissions") from None


def open_change(
    reference: str | Path,
    base: Weights | None = None,
    *,
    allow_pickle: bool = False,
    ema: Literal["drop", "use"] | None = None,
) -> Change:
    """Opens what a user names where a change is wanted.

    Args:
        reference: a skill file, or with `base` a PEFT adapter's folder, or a fine-tune of the base.
        base: the model it is relative to.
        allow_pickle: as for `open_weights`.
        ema: what becomes of the fine-tune's EMA copies: left out, or used in place of its weights. The base's are left
            out. When None, both have to hold the same ones, and they change like any tensor.

    Raises:
        InputError: nothing is there, it needs a base, or belongs to another; or neither holds EMA copies.
    """
    path = Path(os.path.expanduser(reference))
    if is_skill(path):
        skill = SkillFile(path) if base is None else skill_on(base, path)
        # Asked for at once: what is said about it goes into whatever is made of it.
        _ = skill.header
        return skill
    if base is None:
        if path.exists() or "/" in str(reference):
            raise InputError(
                "is not a skill file", where=reference, fix="Name a skill file, or give its base with --base"
            )
        raise InputError("no such file", where=reference, fix="Check the path")
    opened = open_weights(reference, base=base, allow_pickle=allow_pickle)
    if ema is not None:
        if not (ema_copies(opened) or ema_copies(base)):
            raise InputError(
                f"neither {opened.name} nor {base.name} holds EMA copies", where="--ema", fix="Leave it out"
            )
        opened, base = without_copies(opened, ema, "--ema drop"), without_copies(base, "drop")
        done = "left out" if ema == "drop" else "used in place of the weights"
        progress.message(f"note: the EMA copies of {opened.name} are {done}.")
    if isinstance(opened, BaseWithChange) and without_head(opened.base) is without_head(base):
        return opened.change
    head = class_head_of(opened.config)
    if head is not None and class_head_of(base.config) is None and _of_one_kind(opened, base):
        # A head that the base lacks is a change from zeros.
        base = BaseWithHead(base, head)
        opened = naming.in_layout_of(opened, base)
    return ModelDifference(opened, base)


def skill_on(base: Weights, path: Path, *, force: bool = False) -> Change:
    """A skill file as a change of a base, which may have another layout than the one it was made for.

    Where the base has no head and the skill carries one, it is a change of the base with that head.

    Args:
        base: the base.
        path: the skill file.
        force: as for `SkillFile`.

    Raises:
        InputError: as for `SkillFile`.
    """
    skill = SkillFile(path)
    base = with_head(base, skill.head)
    view = naming.named_as(base, {name: skill.shape(name) for name in skill.names()})
    return naming.put_on(base, SkillFile(path, view, force=force))


def adapter_on(base: Weights, path: Path, name: str | None = None, *, allow_pickle: bool = False) -> BaseWithChange:
    """A base with a PEFT adapter. Adapters carry the names of memory, and the base's file may have others.

    Where the base has no head and the adapter carries one, it is a change of the base with that head.

    Args:
        base: the base.
        path: the adapter's folder.
        name: what the user calls it.
        allow_pickle: take `adapter_model.bin` where there is no safetensors file.

    Raises:
        InputError: as for `PeftAdapter`.
    """
    content = AdapterContent(path, allow_pickle)
    headed = unpacked(with_head(base, carried_head(path, content, base.config)))
    refuse_random_parts(headed, content)
    if content.kind.by_settings or content.parameters:
        # What the settings mean is told by the class, and a parameter beside modules is one of the class's.
        view = naming.in_memory_layout(headed)
    else:
        view = naming.named_as(headed, dict.fromkeys(content.anchors()), content.targets())
    shaped = fitted(view, content)
    if shaped is not view:
        # What was made to fit has no file whose layout could be kept.
        return BaseWithChange(shaped, PeftAdapter(path, shaped, name, content=content))
    return BaseWithChange(headed, naming.put_on(headed, PeftAdapter(path, view, name, content=content)))


def find_addition(reference: str, *, allow_pickle: bool = False) -> Path | None:
    """Where the adapter or skill lies that a user names alone, without the model it goes on; None for all else.

    Raises:
        InputError: nothing is there.
    """
    opener = _Opener(None, None, allow_pickle, lambda _: None)
    pieces = opener.pieces(reference)
    if len(pieces) != 1:
        return None
    path = opener.find(pieces[0])
    return path if isinstance(path, Path) and _is_addition(path) else None


class _Opener:
    """The arguments of one `open_weights`, shared by the pieces of a name."""

    def __init__(self, relative_to: Path | None, base: Weights | None, allow_pickle: bool, known: Known) -> None:
        self.relative_to, self.base, self.allow_pickle, self.known = relative_to, base, allow_pickle, known

    def open(self, text: str) -> Weights:
        pieces = self.pieces(text)
        found = [self.find(piece) for piece in pieces]
        first = self._model_first(found)
        pieces = [pieces[first], *pieces[:first], *pieces[first + 1 :]]
        found = [found[first], *found[:first], *found[first + 1 :]]
        weights = self._open_first(pieces[0], found[0])
        for piece, path in zip(pieces[1:], found[1:], strict=True):
            if isinstance(path, Weights):
                raise _no_addition(piece)
            weights = self._add(weights, path, f"{weights.name}+{piece}")
        if self.base is None or isinstance(getattr(weights, "base", None), BaseWithHead | QuantisedBase):
            return weights
        return naming.in_layout_of(weights, self.base)

    def pieces(self, text: str) -> list[str]:
        """The names that a name with "+" is made of."""
        return [text] if self._is_whole(text) else self._split(text)

    def _is_whole(self, text: str) -> bool:
        return self._named(text) is not None or self._existing(text) is not None

    def _named(self, text: str) -> Weights | None:
        return self.base if self.base is not None and text == self.base.name else self.known(text)

    def _split(self, text: str) -> list[str]:
        """Splits at "+", keeping together the pieces that exist as one path."""
        parts = text.split("+")
        pieces: list[str] = []
        while parts:
            for n in range(len(parts), 0, -1):
                piece = "+".join(parts[:n])
                if n == 1 or self._is_whole(piece):
                    pieces.append(piece)
                    parts = parts[n:]
                    break
        return pieces

    def find(self, piece: str) -> Weights | Path:
        """What one of them names: opened already, or where it lies."""
        named = self._named(piece)
        return named if named is not None else self._locate(piece)

    def _model_first(self, found: list[Weights | Path]) -> int:
        """Which piece the others are added to: the first, unless that is an adapter and a single other is a model."""
        models = [i for i, path in enumerate(found) if isinstance(path, Weights) or not _is_addition(path)]
        return models[0] if len(models) == 1 else 0

    def _open_first(self, name: str, path: Weights | Path) -> Weights:
        if isinstance(path, Weights):
            return path
        if (saved := saved_model(path)) is not None:
            kept: Weights = saved.open_weights(path, self.allow_pickle)
            return kept
        if not _is_addition(path):
            return dequantised(Checkpoint(path, name, allow_pickle=self.allow_pickle))
        if self.base is None:
            raise InputError("is an adapter or a skill without a base", where=path, fix=f"Write it as BASE+{name}")
        return self._add(self.base, path, name)

    def _add(self, weights: Weights, path: Path, name: str) -> Weights:
        if path.is_dir() and (path / CONFIG_FILE).is_file() and not is_peft_prompt(path):
            # PEFT puts it beside quantised layers, too; what is to be computed of such a model is refused there.
            return adapter_on(weights, path, name, allow_pickle=self.allow_pickle)
        refuse_quantised(weights, name, "Name the unquantised model that it can be added to")
        if is_peft_prompt(path):
            return peft_prompt_on(weights, path, name, allow_pickle=self.allow_pickle)
        if (form := _form_in(path)) is not None:
            return form_on(weights, form[0], name, form[1])
        if is_skill(path):
            return skill_on(weights, path).applied(name)
        if is_gguf_adapter(path):
            # llama.cpp's names are told from those of transformers' class.
            return naming.put_on(weights, GgufAdapter(path, naming.in_memory_layout(weights), name)).applied()
        raise _no_addition(path)

    def _existing(self, text: str) -> Path | None:
        if remote.is_url(text):
            return None
        path = Path(os.path.expanduser(text))
        inside = [self.relative_to / path] if self.relative_to and not path.is_absolute() else []
        for candidate in (*inside, path):
            try:
                if candidate.exists() and not (candidate.is_dir() or candidate.is_file()):
                    raise InputError("is a device or a pipe, expected a model", where=candidate, fix="Name a folder")
                if candidate.exists() or saved_model(candidate) is not None or _form_in(candidate) is not None:
                    return candidate
            except PermissionError:
                raise
            except (OSError, ValueError):
                # Too long for a path, or not one at all.
                continue
            if candidate.is_symlink():
                raise InputError(
                    "is a symbolic link that leads nowhere or in a circle",
                    where=candidate,
                    fix="Correct or remove the link",
                )
        return None

    def _locate(self, text: str) -> Path:
        if remote.is_url(text) and not text.lower().startswith("hf://"):
            path = remote.fetch(text, allow_pickle=self.allow_pickle)
            if not path.exists():
                raise InputError("no such model: the path does not exist", where=text, fix="Check the path")
            return path
        on_hub = text.lower().startswith("hf://")
        path_here = None if on_hub else self._existing(text)
        if path_here is not None:
            return path_here
        name, _, revision = (text[5:].rstrip("/") if on_hub else text).partition("@")
        if revision and not on_hub and (local := self._existing(name)) is not None:
            raise InputError(
                f"{local} is a local folder and has no revision '{revision}'", where=text, fix="Drop the '@'"
            )
        if hub.HUB_ID.fullmatch(name):
            return hub.fetch(name, revision or None, allow_pickle=self.allow_pickle)
        if on_hub:
            raise InputError("is not the name of a hub model", where=text, fix="Write it as hf://org/name[@revision]")
        raise InputError("no such model: the path does not exist", where=text, fix="Check the path")


def _form_in(path: Path) -> tuple[Path, str | None] | None:
    """The folder of a form and the task behind `#`; None where there is none."""
    folder, task = folder_and_task(path)
    return (folder, task) if is_form(folder) else None


def _is_addition(path: Path) -> bool:
    """Whether a path holds an adapter or a skill and no model of its own."""
    if is_skill(path) or is_gguf_adapter(path) or _form_in(path) is not None:
        return True
    return path.is_dir() and (path / CONFIG_FILE).is_file() and not (path / "config.json").is_file()


def _of_one_kind(first: Weights, second: Weights) -> bool:
    return (first.config or {}).get("model_type") == (second.config or {}).get("model_type")


def _no_addition(what: str | Path) -> InputError:
    return InputError(
        "is neither a PEFT adapter nor a genepool skill",
        where=what,
        fix="Write an adapter folder or a skill file after '+'",
    )
