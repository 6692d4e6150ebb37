"""The options of `genepool skill`: each does what it says, in every command that has it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from genepool.skills import extract_skill
from genepool.weights import open_weights
from genepool.weights.skill_file import SkillFile

Cli = Callable[..., Any]

SHAPES = {
    "model.embed_tokens.weight": (40, 16),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.mlp.up_proj.weight": (24, 16),
    "model.norm.weight": (16,),
}
UP = "model.layers.0.mlp.up_proj.weight"
# `one` is a fine-tune of `base`; every command takes one where it takes a skill.
COMMANDS = [
    ["skill", "extract", "one"],
    ["skill", "convert", "one", "--to", "sparse"],
    ["skill", "compress", "one", "--size", "9KB"],
    ["skill", "project", "one"],
    ["skill", "drop", "one"],
    ["skill", "scale", "one", "--factor", "2"],
    ["skill", "negate", "one"],
    ["skill", "sum", "one", "two"],
]
TYPED = [
    ["skill", "extract", "one"],
    ["skill", "convert", "one", "--to", "sparse"],
    ["skill", "project", "one"],
    ["skill", "drop", "one"],
    ["skill", "sum", "one", "two"],
    ["skill", "sum", "one", "two", "--to", "low-rank"],
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two fine-tunes, their skills; and `pickles`, a folder with the models as PyTorch's .bin files."""
    folder = tmp_path_factory.mktemp("skills")
    base = _drawn(0)
    for seed, name in enumerate(("base", "one", "two")):
        tensors = base if name == "base" else {key: base[key] + 0.01 * value for key, value in _drawn(seed).items()}
        for place in (folder / name, folder / "pickles" / name):
            place.mkdir(parents=True)
            (place / "config.json").write_text('{"model_type": "llama"}')
        save_file(tensors, folder / name / "model.safetensors")
        torch.save(tensors, folder / "pickles" / name / "pytorch_model.bin")
    for name in ("one", "two"):
        extract_skill(open_weights(folder / name), open_weights(folder / "base"), folder / f"{name}.safetensors")
        shutil.copy(folder / f"{name}.safetensors", folder / "pickles")
    return folder


def _drawn(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.fixture
def world(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test stands in the folder of the models."""
    monkeypatch.chdir(made)
    return made


def _told(answer: Any) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    (line,) = answer.out.splitlines()
    told: dict[str, Any] = json.loads(line)
    assert told["schema"] == 1
    return told


def _dtypes(file: Path, name: str = UP) -> set[str]:
    """The types of the values; places are whole numbers."""
    return {part.info.dtype for part in SkillFile(file).stored(name)[1].parts.values()} & {"F32", "BF16", "F16"}


def _share(file: Path, name: str) -> float:
    return float((SkillFile(file).whole(name) != 0).float().mean())


# ---------------------------------------------------------------------- what they share


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("call", COMMANDS, ids=" ".join)
def test_the_answer_is_one_object_about_the_file_that_is_there(cli: Cli, call: list[str], tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    told = _told(cli(*call, "--base", "base", "--out", out, "--json"))
    assert (told["out"], told["bytes"], told["base"]) == (str(out), out.stat().st_size, "base")
    assert told["tensors"] == len(SkillFile(out).names())
    assert told["base_fingerprint"] == open_weights("base").fingerprint()


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("call", COMMANDS, ids=" ".join)
def test_a_fine_tune_is_a_skill_where_its_base_is_named(cli: Cli, call: list[str], tmp_path: Path) -> None:
    refused = cli(*call, "--out", tmp_path / "s.safetensors", "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "--base" in refused.err
    there = cli(*call, "--out", tmp_path / "s.safetensors", "--base", "nowhere", "--quiet")
    assert (there.code, there.err.count("\n"), "nowhere" in there.err) == (2, 1, True)
    assert not any(tmp_path.glob("*.safetensors"))
    assert cli(*call, "--out", tmp_path / "s.safetensors", "--base", "base").code == 0
    assert SkillFile(tmp_path / "s.safetensors").belongs_to(open_weights("base"))


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("call", COMMANDS, ids=" ".join)
def test_what_is_there_is_replaced_when_that_is_said(cli: Cli, call: list[str], tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    out.write_text("old")
    refused = cli(*call, "--base", "base", "--out", out, "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n"), out.read_text()) == (2, "", 1, "old")
    assert "the file exists" in refused.err
    assert cli(*call, "--base", "base", "--out", out, "--overwrite").code == 0
    assert SkillFile(out).names()


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("call", COMMANDS, ids=" ".join)
def test_pickles_are_opened_when_that_is_said(
    cli: Cli, call: list[str], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*call, "--base", "base", "--out", tmp_path / "safe.safetensors").code == 0
    monkeypatch.chdir(world / "pickles")
    out = tmp_path / "s.safetensors"
    refused = cli(*call, "--base", "base", "--out", out, "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "--allow-pickle" in refused.err
    assert cli(*call, "--base", "base", "--out", out, "--allow-pickle").code == 0
    pickled, safe = SkillFile(out), SkillFile(tmp_path / "safe.safetensors")
    assert all(torch.equal(pickled.whole(name), safe.whole(name)) for name in SHAPES)


@pytest.mark.usefixtures("world", "loud")
@pytest.mark.parametrize("call", COMMANDS, ids=" ".join)
def test_quiet_is_without_progress(cli: Cli, call: list[str], tmp_path: Path) -> None:
    assert cli(*call, "--base", "base", "--out", tmp_path / "loud.safetensors").err
    quiet = cli(*call, "--base", "base", "--out", tmp_path / "quiet.safetensors", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    assert "quiet.safetensors: 4 tensors of base changed" in quiet.out


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("call", TYPED, ids=" ".join)
def test_values_are_stored_as_is_said(cli: Cli, call: list[str], tmp_path: Path) -> None:
    for dtype, code in (("float32", "F32"), ("bfloat16", "BF16"), ("float16", "F16")):
        out = tmp_path / f"{dtype}.safetensors"
        assert cli(*call, "--base", "base", "--out", out, "--dtype", dtype).code == 0
        assert _dtypes(out) == {code}


# ---------------------------------------------------------------------- the forms


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("name", ["dense", "sparse", "low-rank", "packed"])
def test_a_skill_is_extracted_in_the_form_that_is_named(cli: Cli, name: str, tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    ranked = ("--rank", 4) if name in ("low-rank", "packed") else ()
    told = _told(cli("skill", "extract", "one", "--base", "base", "--to", name, *ranked, "--out", out, "--json"))
    assert SkillFile(out).form == name
    assert (told["error"] > 0) == (name != "dense")
    arguments = _told(cli("skill", "show", out, "--json"))["lineage"]["arguments"]
    assert arguments.get("rank") == (4 if ranked else None)


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("call", [["skill", "extract", "one"], ["skill", "convert", "one"]], ids=" ".join)
def test_a_packed_skill_is_packed_as_is_said(cli: Cli, call: list[str], tmp_path: Path) -> None:
    packed = [*call, "--base", "base", "--to", "packed", "--rank", 4, "--json"]
    for kind in ("signs", "groups", "singular"):
        out = tmp_path / f"{kind}.safetensors"
        assert cli(*packed, "--packing", kind, "--out", out).code == 0
        assert SkillFile(out).stored(UP)[0].kind == kind
    sizes, errors = [], []
    for bits in (2, 4, 8):
        told = _told(cli(*packed, "--bits", bits, "--out", tmp_path / f"{bits}.safetensors"))
        sizes.append(told["bytes"])
        errors.append(told["error"])
    assert sizes == sorted(set(sizes))
    assert errors == sorted(set(errors), reverse=True)


@pytest.mark.usefixtures("world")
def test_a_description_stands_in_the_file(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    said = 'Turns words round: "äöü"'
    assert cli("skill", "extract", "one", "--base", "base", "--description", said, "--out", out).code == 0
    assert _told(cli("skill", "show", out, "--json"))["description"] == said


@pytest.mark.usefixtures("world")
def test_a_sum_is_in_the_form_that_is_named(cli: Cli, tmp_path: Path) -> None:
    files = ("one.safetensors", "two.safetensors")
    exact = tmp_path / "exact.safetensors"
    assert cli("skill", "sum", *files, "--out", exact).code == 0
    for more in (["--to", "low-rank", "--rank", 2], ["--rank", 2]):
        out = tmp_path / f"{len(more)}.safetensors"
        told = _told(cli("skill", "sum", *files, *more, "--out", out, "--json"))
        assert SkillFile(out).form == "low-rank"
        assert SkillFile(out).stored(UP)[1].parts["left"].info.shape == (24, 2)
        assert told["error"] > 0.1
    sparse = tmp_path / "sparse.safetensors"
    assert cli("skill", "sum", *files, "--to", "sparse", "--dtype", "float32", "--out", sparse).code == 0
    assert SkillFile(sparse).form == "sparse"
    assert torch.equal(SkillFile(sparse).whole(UP), SkillFile(exact).whole(UP))
    side = tmp_path / "side.safetensors"
    low = [tmp_path / "4.safetensors", tmp_path / "2.safetensors"]
    assert cli("skill", "sum", *low, "--dtype", "float16", "--out", side).code == 0
    assert (SkillFile(side).form, _dtypes(side)) == ("low-rank", {"F16"})
    none = cli("skill", "sum", *files, "--rank", 0, "--out", tmp_path / "none.safetensors")
    assert (none.code, "must be at least 1, got 0" in none.err) == (2, True)


@pytest.mark.usefixtures("world")
def test_an_adapter_has_no_type_of_its_own(cli: Cli, tmp_path: Path) -> None:
    call = ("skill", "convert", "one", "--base", "base", "--to", "peft", "--out", tmp_path / "lora")
    refused = cli(*call, "--dtype", "float16")
    assert (refused.code, refused.out, "--dtype" in refused.err) == (2, "", True)
    assert not (tmp_path / "lora").exists()
    assert cli(*call).code == 0


# ---------------------------------------------------------------------- project and drop


@pytest.mark.usefixtures("world")
def test_the_largest_share_of_every_tensor_or_of_the_model_stays(cli: Cli, tmp_path: Path) -> None:
    total = sum(torch.Size(shape).numel() for shape in SHAPES.values())
    for scope in ("tensor", "model"):
        for density in (0.125, 0.5):
            out = tmp_path / f"{scope}-{density}.safetensors"
            call = ("skill", "project", "one.safetensors", "--out", out, "--json")
            _told(cli(*call, "--density", density, "--scope", scope))
            kept = {name: _share(out, name) for name in SHAPES}
            entries = sum(share * torch.Size(SHAPES[name]).numel() for name, share in kept.items())
            assert entries == pytest.approx(density * total)
            assert (set(kept.values()) == {density}) == (scope == "tensor")
    by_default = tmp_path / "default.safetensors"
    assert cli("skill", "project", "one.safetensors", "--density", 0.5, "--out", by_default).code == 0
    assert SkillFile(by_default).digest() == SkillFile(tmp_path / "tensor-0.5.safetensors").digest()


@pytest.mark.usefixtures("world")
def test_what_is_not_dropped_makes_up_for_it_unless_that_is_denied(cli: Cli, tmp_path: Path) -> None:
    exact = SkillFile("one.safetensors").whole(UP)
    files = {}
    for name, more in (("default", []), ("made up", ["--no-rescale", "--rescale"]), ("as it is", ["--no-rescale"])):
        files[name] = tmp_path / f"{name}.safetensors"
        call = ("skill", "drop", "one.safetensors", "--density", 0.5, "--dtype", "float32", "--out", files[name])
        assert cli(*call, *more).code == 0
    for name, factor in (("default", 2.0), ("made up", 2.0), ("as it is", 1.0)):
        change = SkillFile(files[name]).whole(UP)
        assert 0.3 < _share(files[name], UP) < 0.7
        torch.testing.assert_close(change, torch.where(change != 0, factor * exact, 0.0))
    assert SkillFile(files["default"]).digest() == SkillFile(files["made up"]).digest()


@pytest.mark.usefixtures("world")
def test_a_seed_drops_the_same_entries_and_another_seed_others(cli: Cli, tmp_path: Path) -> None:
    for number, seed in enumerate((0, 7, 7)):
        out = tmp_path / f"{number}.safetensors"
        assert cli("skill", "drop", "one.safetensors", "--density", 0.25, "--seed", seed, "--out", out).code == 0
        assert 0.15 < _share(out, UP) < 0.35
    zero, seven, again = (SkillFile(tmp_path / f"{number}.safetensors") for number in range(3))
    assert seven.digest() == again.digest()
    assert not torch.equal(zero.whole(UP), seven.whole(UP))
    by_default = tmp_path / "default.safetensors"
    assert cli("skill", "drop", "one.safetensors", "--density", 0.25, "--out", by_default).code == 0
    assert SkillFile(by_default).digest() == zero.digest()


# ---------------------------------------------------------------------- apply


@pytest.mark.usefixtures("world", "loud")
def test_applying_answers_replaces_and_is_quiet_as_is_said(cli: Cli, tmp_path: Path) -> None:
    call = ("skill", "apply", "one.safetensors", "two.safetensors", "--base", "base", "--out", tmp_path / "m")
    told = _told(cli(*call, "--json"))
    assert told == {
        "schema": 1, "out": str(tmp_path / "m"), "base": "base", "skills": ["one.safetensors", "two.safetensors"],
    }  # fmt: skip
    refused = cli(*call, "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "--overwrite" in refused.err
    once = ("skill", "apply", "one.safetensors", "--base", "base", "--out", tmp_path / "m", "--overwrite")
    assert cli(*once).err
    quiet = cli(*once, "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    torch.testing.assert_close(load_file(tmp_path / "m" / "model.safetensors")[UP], open_weights("one").read(UP))


def test_applying_to_a_pickled_base_needs_the_word(
    cli: Cli, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world / "pickles")
    call = ("skill", "apply", "one.safetensors", "--base", "base", "--out", tmp_path / "m", "--quiet")
    refused = cli(*call)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "--allow-pickle" in refused.err
    assert cli(*call, "--allow-pickle").code == 0
    tuned = open_weights(world / "one").read(UP)
    torch.testing.assert_close(open_weights(tmp_path / "m").read(UP), tuned)
