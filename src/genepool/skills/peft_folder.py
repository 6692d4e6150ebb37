"""Skills written as PEFT LoRA adapters. Changes that are products already keep their factors, to the last bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from genepool import progress, staging
from genepool.errors import InputError
from genepool.merging.adapter_forms import FACTORED, Form, adapter_config, adapter_form, module_kinds
from genepool.weights import Change, Weights, WrittenChange, infer_roles
from genepool.weights.appending import AppendingWriter, appending
from genepool.weights.encodings import Entry, encodings
from genepool.weights.encodings.encoding import FACTOR, in_memory
from genepool.weights.peft.folder import CONFIG_FILE, PREFIX, WEIGHTS_FILE

if TYPE_CHECKING:
    import torch


@dataclass
class _Tally:
    """What has been written, and what could not be."""

    factored: dict[str, tuple[int, float]]
    whole: set[str]
    biases: bool = False
    transposed: bool = False
    size: float = 0.0
    lost: float = 0.0
    entries: int = 0
    tensors: int = 0
    left_out: str = ""


def write_peft(
    changes: Change,
    base: Weights,
    base_name: str,
    out: str | Path,
    *,
    rank: int | None = None,
    overwrite: bool = False,
) -> WrittenChange:
    """Writes changes as the folder of a PEFT LoRA adapter, whole or not at all.

    A matrix that is stored as a product keeps its factors and their type, unless it has more than `rank` directions;
    any other is factorised. Norms go along whole (`modules_to_save`), biases as the base's biases. What PEFT has no
    adapter for is lost, and counted so.

    Args:
        changes: what to write.
        base: what they are relative to.
        base_name: how PEFT finds the base again: a folder or the hub's name.
        out: the folder.
        rank: most directions of a matrix; 16 for matrices that are no product yet, when None.
        overwrite: replace what is there.

    Raises:
        InputError: PEFT can adapt none of the matrices that change, or `out` is occupied.
    """
    out = Path(out)
    if rank is not None and rank < 1:
        raise InputError(f"a rank of {rank}", where="--rank", fix="Give 1 or more")
    modules = module_kinds(base.config)
    roles = infer_roles({name: base.info(name) for name in base.names()})
    forms = {name: adapter_form(name, base.info(name), roles[name], base, modules) for name in changes.names()}
    tally = _Tally({}, set())
    names = [f"{PREFIX}{name}.{'x' * 24}{i}" for name in base.names() for i in range(2)]
    with staging.staged_folder(out, overwrite=overwrite) as folder:
        with (
            appending(folder / WEIGHTS_FILE, names) as writer,
            progress.bar(f"writing {out}", len(forms), "tensors") as bar,
        ):
            for name, form in forms.items():
                _hold(changes, base, name, form, rank, writer, tally, forms)
                bar.advance()
            _complete_modules(base, changes, tally, writer)
            if not tally.factored:
                why = f"; {tally.left_out}" if tally.left_out else ""
                raise InputError(
                    f"no weight matrix that PEFT can adapt changes{why}",
                    where=changes.name,
                    fix="Keep it as a skill file",
                )
            writer.close({})
        reference = (str(base.folder.resolve()) if base.folder and Path(base_name).exists() else base_name, None)
        config = adapter_config(
            base, reference, tally.factored, whole=tally.whole, biases=tally.biases, transposed=tally.transposed
        )
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        error = (tally.lost / tally.size) ** 0.5 if tally.size else 0.0
        (folder / "README.md").write_text(_card(changes, base_name, error))
        nbytes = (folder / WEIGHTS_FILE).stat().st_size
    return WrittenChange(out, nbytes, tally.tensors, tally.entries, error, tally.left_out)


def _hold(
    changes: Change,
    base: Weights,
    name: str,
    form: Form,
    rank: int | None,
    writer: AppendingWriter,
    tally: _Tally,
    forms: Mapping[str, Form],
) -> None:
    """Writes what an adapter can hold of one tensor's change."""
    if not changes.moves(name):
        return
    tally.tensors += 1
    tally.entries += base.info(name).numel
    if form.kind in FACTORED:
        _factors(changes, name, form, rank, writer, tally)
        return
    change = changes.whole(name)
    size = float(change.square().sum())
    tally.size += size
    if form.kind == "none":
        tally.lost += size
        tally.left_out = tally.left_out or f"{name}: {form.reason}"
        return
    merged = (base.read(name).float() + change.reshape(base.info(name).shape)).contiguous()
    if form.kind == "whole":
        tally.whole.add(form.module)
        writer.write(PREFIX + name, merged)
        return
    tally.biases = True
    weight = forms.get(f"{form.module}.weight")
    # PEFT wraps a layer it adapts, and finds the layer's own bias inside.
    wrapped = weight is not None and weight.kind in FACTORED
    writer.write(f"{PREFIX}{form.module}.base_layer.bias" if wrapped else PREFIX + name, merged)


def _factors(changes: Change, name: str, form: Form, rank: int | None, writer: AppendingWriter, tally: _Tally) -> None:
    kind = encodings()["low-rank"]
    stored = changes.stored(name)
    entry: Entry | None = stored[1] if stored is not None and stored[0].kind == "low-rank" else None
    if entry is not None and (rank is None or entry.parts["left"].info.shape[1] <= rank):
        size = float(changes.whole(name).square().sum())
        lost = 0.0
    else:
        change = changes.whole(name)
        entry = in_memory(name, changes.shape(name), kind.encode(change, rank=rank or 16))
        size = float(change.square().sum())
        lost = float(kind.decode(entry, 0, change.shape[0]).sub_(change).square().sum())
    tally.size += size
    tally.lost += lost
    left, right = entry.whole("left"), entry.whole("right")
    directions = left.shape[1]
    if not directions:
        return
    # The change is as stored: (out, in) for linear layers, (in, out) or (tokens, width) for the others.
    a, b = (right, left) if form.kind == "linear" else (left.mT, right.mT)
    leaves = (
        ("lora_embedding_A", "lora_embedding_B") if form.kind == "embedding" else ("lora_A.weight", "lora_B.weight")
    )
    for factor, leaf in zip((a, b), leaves, strict=True):
        writer.write(f"{PREFIX}{form.module}.{leaf}", factor.contiguous())
    alpha = entry.settings.get(FACTOR, 1.0) * directions
    tally.factored[form.module] = (directions, int(alpha) if alpha == int(alpha) else alpha)
    tally.transposed |= form.kind == "transposed"


def _complete_modules(base: Weights, changes: Change, tally: _Tally, writer: AppendingWriter) -> None:
    """A module that goes along whole has all its tensors with it, those that stayed as they were too."""
    changed: set[str] = set(changes.names())
    for name in base.names():
        if name.rpartition(".")[0] in tally.whole and (name not in changed or not changes.moves(name)):
            stored: torch.Tensor = base.read(name).float().contiguous()
            writer.write(PREFIX + name, stored)


def _card(changes: Change, base_name: str, error: float) -> str:
    """README.md, with the metadata the hub understands."""
    header = changes.header
    front: dict[str, Any] = {
        "base_model": base_name,
        "base_model_relation": "adapter",
        "library_name": "peft",
        "tags": ["lora", "genepool"],
    }
    if header.licence:
        front["license"] = header.licence
    title = header.name or Path(changes.name).stem
    text = [
        f"# {title}",
        "",
        header.description,
        "",
        f"A skill of `{base_name}`, written with genepool {version('genepool')}.",
    ]
    lines = ["---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), "---", "", *text]
    if header.scores:
        lines += ["", "| ability | score |", "|---|---|", *(f"| {k} | {v:.3f} |" for k, v in header.scores.items())]
        if error > 0:
            lines += [
                "",
                f"Scores are of the change before {error:.1%} of its size (Frobenius norm) was lost here.",
            ]
    return "\n".join(lines) + "\n"
