"""What users write: base+adapter and adapter+base, skills, revisions, and links and folders that lead nowhere."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from genepool.errors import InputError
from genepool.skills import extract_skill
from genepool.weights import TensorWeights, Weights, open_weights

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def base(save_model: Callable[..., Path]) -> Path:
    return save_model("base", {NAME: torch.zeros(4, 4)})


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    folder = tmp_path / "lora"
    folder.mkdir()
    prefix = f"base_model.model.{NAME.removesuffix('.weight')}"
    factors = {f"{prefix}.lora_A.weight": torch.ones(1, 4), f"{prefix}.lora_B.weight": torch.ones(4, 1)}
    save_file(factors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')
    return folder


@pytest.fixture
def skill(base: Path, tmp_path: Path, save_model: Callable[..., Path]) -> Path:
    tuned = save_model("tuned", {NAME: torch.full((4, 4), 10.0)})
    extract_skill(open_weights(tuned), open_weights(base), tmp_path / "skill.safetensors")
    return tmp_path / "skill.safetensors"


def test_the_base_may_stand_anywhere_among_its_additions(base: Path, lora: Path, skill: Path) -> None:
    for pieces in itertools.permutations([str(base), str(lora), str(skill)]):
        if pieces.index(str(skill)) < pieces.index(str(lora)):
            continue  # a skill belongs to the plain base, so it goes on first
        with pytest.raises(InputError, match="was extracted from another base"):
            open_weights("+".join(pieces))
    for pieces in itertools.permutations([str(base), str(lora)]):
        assert open_weights("+".join(pieces))[NAME].unique().tolist() == [1.0]
    for pieces in ([base, skill, lora], [skill, base, lora], [skill, lora, base]):
        assert open_weights("+".join(map(str, pieces)))[NAME].unique().tolist() == [11.0]


def test_names_and_fingerprints_do_not_depend_on_the_order(base: Path, lora: Path) -> None:
    one, other = open_weights(f"{base}+{lora}"), open_weights(f"{lora}+{base}")
    assert one.name == other.name
    assert one.fingerprint() == other.fingerprint()


def test_two_models_or_none_are_refused(base: Path, lora: Path, save_model: Callable[..., Path]) -> None:
    other = save_model("other", {NAME: torch.ones(4, 4)})
    for name in (f"{base}+{other}", f"{lora}+{base}+{other}"):
        with pytest.raises(
            InputError, match="neither a PEFT adapter nor a genepool skill|is an adapter or a skill without a base"
        ):
            open_weights(name)
    with pytest.raises(InputError, match="is an adapter or a skill without a base"):
        open_weights(f"{lora}+{lora}")


def test_adapters_alone_go_on_the_base_that_is_open(base: Path, lora: Path) -> None:
    opened = open_weights(base)
    assert open_weights(lora, base=opened)[NAME].unique().tolist() == [1.0]
    assert open_weights(f"{lora}+{lora}", base=opened)[NAME].unique().tolist() == [2.0]
    both = open_weights(f"{lora}+{base}", base=opened)
    assert both.delta(NAME, opened) is not None
    assert getattr(both, "base", None) is opened


def test_known_names_need_no_opening(lora: Path) -> None:
    made = TensorWeights({NAME: torch.full((4, 4), 5.0)}, "made")

    def known(name: str) -> Weights | None:
        return made if name == "made here" else None

    assert open_weights("made here", known=known) is made
    assert open_weights(f"made here+{lora}", known=known)[NAME].unique().tolist() == [6.0]
    assert open_weights(f"{lora}+made here", known=known)[NAME].unique().tolist() == [6.0]


def test_a_local_folder_has_no_revision(base: Path) -> None:
    with pytest.raises(InputError, match="is a local folder and has no revision 'main'"):
        open_weights(f"{base}@main")


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("m.gguf", "does not begin as a GGUF file does"),
        ("r.yaml", "is a recipe, expected a model"),
        ("x.txt", "not a safetensors file"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, file: str, said: str) -> None:
    (tmp_path / file).write_text("x")
    with pytest.raises(InputError, match=said):
        open_weights(tmp_path / file)


@pytest.mark.parametrize("name", ["", " ", "x" * 5000, "a\0b", "+", "a/b/c", "@"])
def test_names_that_are_nothing(name: str) -> None:
    with pytest.raises(InputError):
        open_weights(name)


# ---------------------------------------------------------------------- links and permissions


@pytest.mark.parametrize("file", ["model.safetensors", "model.safetensors.index.json"])
def test_a_link_in_the_folder_that_leads_nowhere(base: Path, file: str) -> None:
    (base / "model.safetensors").unlink()
    (base / file).symlink_to(base / "gone")
    with pytest.raises(InputError, match=f"{file}: is a symbolic link that leads nowhere"):
        open_weights(base)


def test_a_shard_that_is_a_dead_link(base: Path) -> None:
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text('{"weight_map": {"w": "a.safetensors"}}')
    (base / "a.safetensors").symlink_to("a.safetensors")
    with pytest.raises(InputError, match="a.safetensors: is a symbolic link that leads nowhere or in a circle"):
        open_weights(base)


def test_links_to_files_elsewhere_are_followed_as_the_hub_cache_needs(base: Path, tmp_path: Path) -> None:
    (base / "model.safetensors").rename(tmp_path / "blob")
    (base / "model.safetensors").symlink_to(tmp_path / "blob")
    assert len(open_weights(base)) == 1


def test_a_loop_of_links(tmp_path: Path, cli: Callable[..., Any]) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    answer = cli("generate", tmp_path / "a", "--prompt", "x", "--quiet")
    assert answer.code == 2
    assert "a: is a symbolic link that leads nowhere or in a circle" in answer.err
    with pytest.raises(InputError, match="the path does not exist"):
        open_weights(tmp_path / "a" / "model")


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that everyone may enter, seen with the rights of an ordinary user even when the tests run as root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            for path in [folder, *folder.rglob("*")]:
                path.chmod(0o755)


@pytest.mark.parametrize("locked", ["model.safetensors", "config.json", "."])
def test_what_may_not_be_read_is_one_line(
    base: Path, as_nobody: Path, locked: str, cli: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    root = os.geteuid() != os.getuid()
    if root:
        os.seteuid(0)
    folder = as_nobody / "m"
    folder.mkdir()
    for path in base.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / locked).chmod(0)
    if root:
        os.seteuid(65534)
    with pytest.raises(InputError, match="cannot be read") as caught:
        open_weights(folder)
    assert str(folder) in str(caught.value)
