"""Mixed batches of other kinds of models: each prompt is answered as the network whose weights hold its skill does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import write_classifier, write_translator

from genepool.composition.linear_layers import linear_layers
from genepool.composition.mixing.attached import AttachedSkills
from genepool.composition.mixing.listeners import SkillByRequest
from genepool.composition.vectors import TaskVectors
from genepool.tasks import Decoding, open_model
from genepool.tasks.network import Network
from genepool.weights import Weights, open_weights
from genepool.weights.encodings.low_rank import Product
from genepool.weights.in_memory import ResidentChange
from genepool.weights.naming import in_memory_layout

TEXTS = ["ab", "abcdefgh", "ab", "c=", "hgfe", "abcdefgh"]
IMAGES = [" ".join(str((7 * row + 3 * pixel) % 17) for pixel in range(64)) for row in (1, 2, 1, 3, 4, 2)]
SKILLS = [0, 1, 1, -1, 0, -1]
Ask = Callable[[Network, Sequence[str]], Sequence[Any]]


class FactoredChange(ResidentChange):
    """Products in memory."""

    def __init__(self, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]], base: Weights, name: str) -> None:
        super().__init__({tensor: left @ right for tensor, (left, right) in pairs.items()}, base, name)
        self._pairs = pairs

    def factors(self, name: str) -> Product:
        return Product(*self._pairs[name])


def _change(network: Network, base: Weights, seed: int) -> FactoredChange:
    generator = torch.Generator().manual_seed(seed)
    pairs = {
        name: tuple(0.4 * torch.randn(shape, generator=generator) for shape in ((rows, 2), (2, columns)))
        for name, (rows, columns) in ((name, base.info(name).matrix) for name in linear_layers(network.model))
    }
    return FactoredChange({name: (left, right) for name, (left, right) in pairs.items()}, base, f"skill {seed}")


def _write(model: Network, prompts: Sequence[str]) -> list[tuple[str, float]]:
    # Logits of a batch and of one prompt differ in their last bits.
    return [(one.text, one.logprob) for one in model.write(prompts, prompts, Decoding(max_new_tokens=5))]


def _read(model: Network, prompts: Sequence[str]) -> list[float]:
    return [one.logprob for one in model.loglikelihoods(prompts, ["ba"] * len(prompts))]


def _classify(model: Network, prompts: Sequence[str]) -> list[torch.Tensor]:
    return list(model.class_scores(prompts))


def _look(model: Network, prompts: Sequence[str]) -> list[torch.Tensor]:
    return [layers[-1] for layers in model.hidden_states(prompts)]


@pytest.mark.parametrize(
    ("kind", "asks"),
    [("translator", (_write, _read, _look)), ("classifier", (_classify, _look)), ("digits", (_classify, _look))],
)
def test_each_prompt_is_answered_by_its_skill(
    tmp_path: Path, small_bed: Path, kind: str, asks: tuple[Ask, ...]
) -> None:
    if kind == "digits":
        folder = small_bed / "base"
    elif kind == "translator":
        folder = write_translator(tmp_path / "model")
    else:
        folder = write_classifier(tmp_path / "model", labels=("bad", "good"))
    network = open_model(folder).load()
    assert isinstance(network, Network)
    base = in_memory_layout(open_weights(folder))
    changes = [_change(network, base, seed) for seed in (1, 2)]
    prompts = IMAGES if kind == "digits" else TEXTS
    attached = AttachedSkills(network.model, TaskVectors(base, changes))
    for ask in asks:
        with network.listened(SkillByRequest(attached, SKILLS)):
            found = ask(network, prompts)
        for number, (prompt, skill) in enumerate(zip(prompts, SKILLS, strict=True)):
            network.assign(base if skill < 0 else changes[skill].applied())
            (wanted,) = ask(network, [prompt])
            if isinstance(wanted, tuple):
                assert found[number][0] == wanted[0]
                assert found[number][1] == pytest.approx(wanted[1], abs=1e-3)
            else:
                torch.testing.assert_close(found[number], wanted, atol=1e-3, rtol=1e-3)
        network.assign(base)
