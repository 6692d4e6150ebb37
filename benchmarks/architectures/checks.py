"""What is asked of one class: the merge of one model is that model, and an adapter merges as PEFT merges it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.architectures.inputs import alike, outputs_of
from benchmarks.architectures.tiny import silent, tiny_model
from genepool.merging import Recipe, plan_merge, run_plan

# PEFT adds up in float32 as we do, in another order.
CLOSE = 1e-5
RANK = 2
# What PEFT says of a model without linear layers.
_NO_LAYERS = ("No modules were targeted", "not found in the base model", "No `target_modules` passed")


@dataclass
class Found:
    """What came of one class.

    Attributes:
        name, kind: the class and its model_type.
        identity: "same"; "not built" or "not saved" where transformers does not do it at this size; else what differs.
        outputs: "same" by which inputs; "no inputs found"; else "differ".
        lora: "same"; "as trained" where PEFT's own merge of the saved adapter is not the model that was trained, and
            ours is; "no linear layers" or "not by PEFT" where PEFT makes no adapter; else what differs.
        reason: of whatever is not the same.
    """

    name: str
    kind: str
    identity: str = ""
    outputs: str = ""
    lora: str = ""
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """As a line of the record."""
        return asdict(self)

    @property
    def wrong(self) -> bool:
        """Whether genepool did something else than transformers or PEFT."""
        fine = {"", "same", "as trained", "not built", "not saved", "no linear layers", "not by PEFT"}
        return self.identity not in fine or self.lora not in fine or self.outputs == "differ"


def check(name: str, kind: str) -> Found:
    """Builds a small model of a class, merges it, and merges an adapter on it."""
    found = Found(name, kind)
    with tempfile.TemporaryDirectory() as place:
        try:
            model = tiny_model(name, kind)
        except Exception as error:
            found.identity, found.reason = "not built", _line(error)
            return found
        folder = Path(place)
        try:
            with silent():
                model.save_pretrained(folder / "model")
        except Exception as error:
            found.identity, found.reason = "not saved", _line(error)
            return found
        _check_identity(found, model, folder)
        if found.identity == "same":
            _check_lora(found, model, folder)
        found.reason = found.reason.replace(f"{place}/", "")
    return found


def _check_identity(found: Found, model: Any, folder: Path) -> None:
    try:
        _merge([str(folder / "model")], folder / "out")
    except Exception as error:
        found.identity, found.reason = "not merged", _line(error)
        return
    first, second = _stored(folder / "model"), _stored(folder / "out")
    if difference := _difference(first, second):
        found.identity, found.reason = "other tensors", difference
        return
    before, after = (json.loads((folder / one / "config.json").read_text()) for one in ("model", "out"))
    if changed := {key for key in {*before, *after} - {"dtype"} if before.get(key) != after.get(key)}:
        found.identity, found.reason = "other config", ", ".join(sorted(changed))
        return
    try:
        first_loaded, second_loaded = (_loaded(type(model), folder / one) for one in ("model", "out"))
    except Exception as error:
        found.identity, found.reason = "not saved", f"not loaded again: {_line(error)}"
        return
    if difference := _difference(first_loaded.state_dict(), second_loaded.state_dict()):
        found.identity, found.reason = "loaded otherwise", difference
        return
    found.identity = "same"
    computed = outputs_of(first_loaded)
    if computed is None:
        found.outputs = "no inputs found"
        return
    again = outputs_of(second_loaded)
    found.outputs = f"same of {computed[1]}" if again and alike(computed[0], again[0]) else "differ"


def _check_lora(found: Found, model: Any, folder: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    try:
        with silent():
            base = _loaded(type(model), folder / "model")
            adapted = get_peft_model(base, LoraConfig(r=RANK, target_modules="all-linear"))
            torch.manual_seed(2)
            with torch.no_grad():
                for name, parameter in adapted.named_parameters():
                    if "lora_B" in name or "lora_embedding_B" in name:
                        parameter.copy_(0.1 * torch.randn_like(parameter))
            adapted.save_pretrained(folder / "adapter")
            trained = _merged_as_trained(adapted)
            wanted = PeftModel.from_pretrained(_loaded(type(model), folder / "model"), folder / "adapter")
            wanted = wanted.merge_and_unload().eval()
    except Exception as error:
        none = any(text in str(error) for text in _NO_LAYERS)
        found.lora, reason = ("no linear layers", "") if none else ("not by PEFT", _line(error))
        found.reason = found.reason or reason
        return
    try:
        _merge([f"{folder / 'model'}+{folder / 'adapter'}"], folder / "adapted")
        made = _loaded(type(model), folder / "adapted")
    except Exception as error:
        found.lora, found.reason = "not merged", _line(error)
        return
    state, same = made.state_dict(), "same"
    if difference := _difference(wanted.state_dict(), state, CLOSE):
        if _difference(trained.state_dict(), state, CLOSE):
            found.lora, found.reason = "other tensors", difference
            return
        wanted, same, found.reason = trained, "as trained", difference
    computed = outputs_of(wanted)
    again = outputs_of(made) if computed is not None else None
    if computed is not None and not (again and alike(computed[0], again[0], 100 * CLOSE)):
        found.lora, found.reason = "other outputs", "computed of equal tensors"
        return
    found.lora = same


def _merged_as_trained(adapted: Any) -> Any:
    """The model as it is trained: PEFT's merge, not of what was saved, and of tied tensors each with its own change."""
    from torch import nn

    sharing: dict[int, int] = {}
    layers = [module for module in adapted.modules() if hasattr(module, "lora_A")]
    for _, parameter in adapted.named_parameters(remove_duplicate=False):
        sharing[parameter.data_ptr()] = sharing.get(parameter.data_ptr(), 0) + 1
    for layer in layers:
        base = layer.get_base_layer()
        if isinstance(weight := getattr(base, "weight", None), nn.Parameter) and sharing[weight.data_ptr()] > 1:
            base.weight = nn.Parameter(weight.detach().clone())
    return adapted.merge_and_unload().eval()


def _merge(models: list[str], out: Path) -> None:
    run_plan(plan_merge(Recipe(method="linear", models=models)), out)


def _loaded(cls: Any, folder: Path) -> Any:
    torch.manual_seed(3)
    with silent():
        return cls.from_pretrained(folder, dtype=torch.float32).eval()


def _stored(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(load_file(file))
    return found


def _difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float = 0.0) -> str:
    """The first tensor that is not the same, and how; empty when all are."""
    if names := sorted(first.keys() ^ second.keys()):
        return f"{len(names)} names in one only, such as {names[0]}"
    for name, value in first.items():
        if not alike({name: value}, {name: second[name]}, tolerance):
            far = (
                (value.double() - second[name].double()).abs().max() if value.shape == second[name].shape else "shapes"
            )
            return f"{name} differs by {far:.3g}" if not isinstance(far, str) else f"{name} has another shape"
    return ""


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
