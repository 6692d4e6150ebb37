"""Arrow's general knowledge: the mean factors of general adapters are taken out, as PEFT's `use_gks` does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.composition import load_composition, open_skills
from genepool.composition.routing.general_knowledge import without_general
from genepool.errors import InputError
from genepool.tasks import open_model

Cli = Callable[..., Any]
IDS = torch.tensor([[1, 5, 6, 7, 12], [1, 8, 4, 9, 12]])
NAMES = ("swim", "fly", "common", "usual")


def network(bed: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(bed / "base").eval()


@pytest.fixture(scope="module")
def adapters(text_bed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four adapters of rank 2 on the text bed, each with a scale of its own, and one of rank 3."""
    from peft import LoraConfig, get_peft_model

    place = tmp_path_factory.mktemp("general")
    for seed, name in enumerate((*NAMES, "wider")):
        torch.manual_seed(seed)
        rank = 3 if name == "wider" else 2
        targets = ["q_proj", "up_proj"]
        config = LoraConfig(r=rank, lora_alpha=2 + seed, target_modules=targets, init_lora_weights=False)
        tuned = get_peft_model(network(text_bed), config)
        for key, parameter in tuned.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter, std=0.3)
        tuned.save_pretrained(str(place / name))
    return place


def compose(cli: Cli, bed: Path, adapters: Path, out: Path, *more: Any, names: tuple[str, ...] = NAMES) -> Any:
    return cli(
        "compose", "arrow", *(adapters / name for name in names), "--base", bed / "base", "--out", out, "--set",
        "top=2", *more,
    )  # fmt: skip


def ours(folder: Path) -> torch.Tensor:
    model: Any = open_model(str(folder)).load()
    with torch.inference_mode():
        found: torch.Tensor = model.model(input_ids=IDS, use_cache=False).logits
    return found


def test_factors_lose_the_mean_of_the_general_ones(text_bed: Path, adapters: Path) -> None:
    """s (B - mean B_g) (A - mean A_g), each factor apart."""
    skills = open_skills(str(text_bed / "base"), [str(adapters / name) for name in NAMES])
    names, changes = without_general(skills, ("common", "usual"), "")
    assert names == ["swim", "fly"]
    vectors = skills.vectors()
    for tensor in vectors.names:
        products = [vectors.factors(skill, tensor) for skill in range(4)]
        lefts, rights = ([getattr(one, side).float() for one in products] for side in ("left", "right"))
        for number, change in enumerate(changes):
            left = lefts[number] - (lefts[2] + lefts[3]) / 2
            right = rights[number] - (rights[2] + rights[3]) / 2
            factor = products[number].factor  # type: ignore[union-attr]
            torch.testing.assert_close(change.whole(tensor), factor * left @ right)
            torch.testing.assert_close(change.rows(tensor, 1, 3), change.whole(tensor)[1:3])


@pytest.mark.slow
def test_it_is_what_peft_computes(cli: Cli, text_bed: Path, adapters: Path, tmp_path: Path) -> None:
    """PEFT subtracts for itself from the same adapters; and our export, already lessened, answers alike there."""
    from peft import ArrowConfig, create_arrow_model

    folder, out = tmp_path / "arrow", tmp_path / "peft"
    made = compose(cli, text_bed, adapters, folder, "--set", "general=[common, usual]")
    assert made.code == 0, made.err
    expected = ours(folder)
    plain = tmp_path / "plain"
    assert compose(cli, text_bed, adapters, plain, names=NAMES[:2]).code == 0
    apart = float((expected - ours(plain)).norm())
    paths = {name: str(adapters / name) for name in NAMES}
    config = ArrowConfig(top_k=2, router_temperature=1.0, use_gks=True, rng_seed=0)
    theirs = create_arrow_model(
        network(text_bed), [paths["swim"], paths["fly"]], config, [paths["common"], paths["usual"]]
    ).eval()
    assert cli("export", folder, out, "--type", "peft").code == 0
    said = json.loads((out / "arrow_config.json").read_text())
    assert said["skills"] == ["swim", "fly"]
    exported = create_arrow_model(
        network(text_bed), [str(out / name) for name in said["adapters"]], ArrowConfig(**said["arrow_config"])
    ).eval()
    for model in (theirs, exported):
        with torch.inference_mode():
            found = model(input_ids=IDS).logits
        # Within what 15 power iterations reach; without the subtraction it is far away.
        assert float((found - expected).norm()) < 0.02 * apart


def test_the_general_ones_never_answer(cli: Cli, text_bed: Path, adapters: Path, tmp_path: Path) -> None:
    folder = tmp_path / "arrow"
    made = compose(
        cli, text_bed, adapters, folder, "--set", "general=[common]", "--keep", "--bundle", "--tasks",
        text_bed / "tasks", "--examples", 2,
    )  # fmt: skip
    assert made.code == 0, made.err
    loaded = load_composition(folder)
    assert loaded.labels["skills"] == ["swim", "fly", "usual"]
    assert {name for shares in loaded.record["shares"].values() for name in shares} == {"swim", "fly", "usual"}
    told = cli("generate", folder, "--prompt", "abcd=", "--max-new-tokens", 2, "--show-skills")
    assert told.code == 0, told.err
    assert "common" not in told.out
    # What was put into the folder is what was named: the answers are the same.
    other = tmp_path / "other"
    assert compose(cli, text_bed, adapters, other, "--set", "general=[common]").code == 0
    torch.testing.assert_close(ours(folder), ours(other))


@pytest.mark.parametrize(
    ("names", "general", "said"),
    [
        (NAMES, "[comon]", "no skill is called 'comon'. Did you mean 'common'"),
        (NAMES, "[swim, fly, common, usual]", "all skills are general, so none is left to answer"),
        ((*NAMES, "wider"), "[common]", "ranks [2, 3], and only factors of one rank"),
        (NAMES, "3", "error: --set general"),
    ],
)
def test_what_cannot_be_subtracted_is_refused(
    cli: Cli, text_bed: Path, adapters: Path, tmp_path: Path, names: tuple[str, ...], general: str, said: str
) -> None:
    answer = compose(cli, text_bed, adapters, tmp_path / "out", "--set", f"general={general}", names=names)
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("error: ") == 1
    assert not (tmp_path / "out").exists()


def test_other_layers_are_refused(text_bed: Path, adapters: Path) -> None:
    names = [str(adapters / "swim"), str(text_bed / "lora" / "one")]
    skills = open_skills(str(text_bed / "base"), names)
    without_general(skills, ("one",), "")
    vectors = skills.vectors()
    dropped = {"swim": skills.memory_changes[0], "one": _Fewer(skills.memory_changes[1], vectors.names[0])}
    skills.__dict__["memory_changes"] = tuple(dropped.values())
    with pytest.raises(InputError, match=f"one has no factors of {vectors.names[0]}, which others have"):
        without_general(skills, ("one",), "")


class _Fewer:
    """A change that leaves one tensor alone."""

    def __init__(self, change: Any, without: str) -> None:
        self._change, self._without = change, without

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self._change.names() if name != self._without)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._change, name)
