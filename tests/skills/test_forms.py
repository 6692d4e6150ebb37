"""Skills in every form: what is lost is what is said, and operations are what they are called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from genepool.errors import InputError
from genepool.skills import Dare, TopK, extract_skill
from genepool.weights import Change, Form, Scaled, Sum, open_change, open_weights, store
from genepool.weights.header import Header
from genepool.weights.skill_file import SkillFile

SHAPES = {
    "model.embed_tokens.weight": (40, 16),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.mlp.up_proj.weight": (24, 16),
    "model.layers.0.input_layernorm.weight": (16,),
    "model.norm.weight": (16,),
}
STILL = "model.norm.weight"
FORMS = [
    Form("dense"), Form("dense", "BF16"), Form("sparse", "F32"), Form("low-rank", rank=16), Form("low-rank", rank=4),
    Form("packed"), Form("packed", packing="signs"), Form("packed", packing="singular", rank=12),
]  # fmt: skip


def _drawn(seed: int, scale: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.fixture
def models(save_model: Callable[..., Path]) -> dict[str, Path]:
    base = _drawn(0, 1.0)
    found = {"base": save_model("base", base)}
    for seed, name in ((1, "one"), (2, "two")):
        delta = {**_drawn(seed, 0.01), STILL: torch.zeros(16)}
        found[name] = save_model(name, {key: base[key] + delta[key] for key in base})
    return found


@pytest.fixture
def skills(models: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    base = open_weights(models["base"])
    return {
        name: extract_skill(open_weights(models[name]), base, tmp_path / f"{name}.safetensors")
        for name in ("one", "two")
    }


def _vector(changes: Change | SkillFile) -> dict[str, torch.Tensor]:
    return {name: changes.whole(name).reshape(SHAPES[name]) for name in changes.names()}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.name}-{form.dtype or form.packing}-{form.rank}")
def test_what_is_lost_is_what_is_said(form: Form, models: dict[str, Path], tmp_path: Path) -> None:
    base, tuned = open_weights(models["base"]), open_weights(models["one"])
    written = store(open_change(models["one"], base), tmp_path / "s.safetensors", form, "extract")
    file = SkillFile(written.path)
    assert file.form == form.name
    assert STILL not in file.names()
    there, size, lost = open_weights(f"{models['base']}+{written.path}"), 0.0, 0.0
    for name in base.names():
        exact = tuned.read(name) - base.read(name)
        found = there.delta(name, there.base)  # type: ignore[attr-defined]
        size += float(exact.square().sum())
        lost += float((exact - (0 if found is None else found)).square().sum())
    assert written.error == pytest.approx((lost / size) ** 0.5, abs=1e-6)
    assert (file.header.error or 0.0) == pytest.approx(written.error, rel=1e-2)
    if form in (Form("dense"), Form("sparse", "F32")):
        assert written.error == 0
    # Any program that reads safetensors reads the file.
    with safe_open(written.path, "pt") as opened:
        assert opened.metadata()["form"] == form.name


def test_a_recipe_takes_every_form(models: dict[str, Path], tmp_path: Path, cli: Callable[..., Any]) -> None:
    base = open_weights(models["base"])
    names = []
    for i, form in enumerate(FORMS[:4]):
        store(open_change(models["one"], base), tmp_path / f"f{i}.safetensors", form, "extract")
        names.append(f"base+f{i}.safetensors")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"genepool: 1\nmethod: linear\nmodels: {json.dumps(names)}\n")
    assert cli("merge", recipe, tmp_path / "out").code == 0
    merged, tuned = open_weights(tmp_path / "out"), open_weights(models["one"])
    for name in SHAPES:
        torch.testing.assert_close(merged.read(name), tuned.read(name), atol=2e-4, rtol=0)


@pytest.mark.slow
@given(factor=st.floats(-4, 4).filter(lambda f: abs(f) > 1e-3), form=st.sampled_from(FORMS))
def test_scaling_scales(factor: float, form: Form, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("scaled")
    _save(folder / "base.safetensors", _drawn(0, 1.0))
    _save(folder / "tuned.safetensors", {key: value + _drawn(1, 0.01)[key] for key, value in _drawn(0, 1.0).items()})
    base = open_weights(folder / "base.safetensors")
    one = store(open_change(str(folder / "tuned.safetensors"), base), folder / "a.safetensors", form, "extract").path
    changes = Scaled(open_change(one), factor)
    before, lazily = _vector(SkillFile(one)), _vector(changes)
    for name, change in lazily.items():
        torch.testing.assert_close(change, factor * before[name], atol=1e-7, rtol=1e-5)
    twice = store(changes, folder / "b.safetensors", None, "scale")
    assert twice.error == 0
    for name, change in _vector(SkillFile(twice.path)).items():
        assert torch.equal(change, lazily[name])


def _save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, path)


def test_sums_are_sums_and_low_ranks_stay_low(models: dict[str, Path], skills: dict[str, Path], tmp_path: Path) -> None:
    both = Sum([open_change(skills["one"]), open_change(skills["two"])])
    added = _vector(SkillFile(store(both, tmp_path / "sum.safetensors", None, "sum").path))
    one, two = (_vector(SkillFile(skills[name])) for name in ("one", "two"))
    for name in added:
        torch.testing.assert_close(added[name], one[name] + two[name])
    low = [
        store(open_change(skills[n]), tmp_path / f"low-{n}.safetensors", Form("low-rank", "F32", 3), "convert").path
        for n in ("one", "two")
    ]
    side = store(Sum([open_change(path) for path in low]), tmp_path / "low.safetensors", None, "sum")
    file = SkillFile(side.path)
    assert file.form == "low-rank"
    assert file.stored("model.layers.0.mlp.up_proj.weight")[1].parts["left"].info.shape == (24, 6)
    first, second = (_vector(SkillFile(path)) for path in low)
    for name, change in _vector(file).items():
        torch.testing.assert_close(change, first[name] + second[name], atol=1e-6, rtol=1e-5)
    assert json.loads(file.metadata["lineage"])["parents"] == [SkillFile(path).digest() for path in low]


def test_a_skill_named_with_its_base_is_the_skill_itself(
    models: dict[str, Path], skills: dict[str, Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    alone, named = tmp_path / "alone.safetensors", tmp_path / "named.safetensors"
    low = ("--base", models["base"], "--to", "low-rank", "--out")
    assert cli("skill", "convert", skills["one"], *low, alone).code == 0
    answer = cli("skill", "convert", f"{models['base']}+{skills['one']}", *low, named)
    assert answer.code == 0, answer.err
    assert json.loads(SkillFile(named).metadata["lineage"])["parents"] == [SkillFile(skills["one"]).digest()]
    assert SkillFile(named).digest() == SkillFile(alone).digest()


def test_the_largest_stay_and_nothing_else(skills: dict[str, Path]) -> None:
    changes = open_change(skills["one"])
    flat = torch.cat([changes.whole(name).flatten() for name in changes.names()])
    kept = TopK(changes, 0.1)
    found = torch.cat([kept.whole(name).flatten() for name in kept.names()])
    threshold = flat.abs().sort(descending=True).values[int(0.1 * len(flat)) - 1]
    assert torch.equal(found, torch.where(flat.abs() >= threshold, flat, 0.0))
    each = TopK(changes, 0.25, "tensor")
    for name in each.names():
        assert int((each.whole(name) != 0).sum()) == int(0.25 * changes.whole(name).numel())


def test_what_is_dropped_depends_on_place_alone(skills: dict[str, Path]) -> None:
    changes = open_change(skills["one"])
    dropped = Dare(changes, 0.3, seed=5)
    for name in changes.names():
        whole, exact = dropped.whole(name), changes.whole(name)
        rows = torch.cat([dropped.rows(name, i, i + 1) for i in range(len(whole))])
        assert torch.equal(rows, whole)
        torch.testing.assert_close(whole[whole != 0], (exact / 0.3)[whole != 0])
    share = sum(float((dropped.whole(n) != 0).sum()) for n in changes.names()) / sum(
        changes.whole(n).numel() for n in changes.names()
    )
    assert 0.25 < share < 0.35
    assert not torch.equal(Dare(changes, 0.3, seed=6).whole(name), whole)


def test_the_command_line_from_end_to_end(models: dict[str, Path], tmp_path: Path, cli: Callable[..., Any]) -> None:
    base, skill = models["base"], tmp_path / "s.safetensors"
    answer = cli(
        "skill", "extract", models["one"], "--base", base, "--rank", 8, "--name", "Umkehrung/ß", "--licence", "mit",
        "--out", skill, "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["error"] > 0
    shown = json.loads(cli("skill", "show", skill, "--json").out)
    assert (shown["form"], shown["name"], shown["licence"]) == ("low-rank", "Umkehrung/ß", "mit")
    assert shown["lineage"]["operation"] == "extract"
    assert cli("skill", "show", skill).code == 0
    steps: list[tuple[str, list[Any]]] = [
        ("convert", ["--to", "packed", "--bits", 8]), ("convert", ["--to", "sparse"]), ("project", ["--density", 0.2]),
        ("drop", ["--density", 0.5]), ("scale", ["--factor", 0.5]), ("negate", []),
    ]  # fmt: skip
    for number, (command, settings) in enumerate(steps):
        out = tmp_path / f"{number}.safetensors"
        answer = cli("skill", command, skill, *settings, "--out", out, "--json")
        assert answer.code == 0, answer.err
        assert json.loads(answer.out)["bytes"] == out.stat().st_size
        assert SkillFile(out).metadata["name"] == "Umkehrung/ß"
        again = cli("skill", command, skill, *settings, "--out", out)
        assert (again.code, "the file exists" in again.err) == (2, True)
    assert cli("skill", "sum", skill, tmp_path / "5.safetensors", "--out", tmp_path / "zero.safetensors").code == 0
    assert cli("skill", "apply", skill, tmp_path / "5.safetensors", "--base", base, "--out", tmp_path / "m").code == 0
    undone, start = open_weights(tmp_path / "m"), open_weights(base)
    for name in SHAPES:
        torch.testing.assert_close(undone.read(name), start.read(name), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convert", "SKILL", "--to", "low-rank", "--rank", 0], "must be at least 1, got 0"),
        (["convert", "SKILL", "--to", "packed", "--bits", 3], "got 3, expected a known width"),
        (["convert", "SKILL", "--to", "peft"], "is required with --to peft"),
        (["convert", "missing.safetensors", "--to", "dense"], "no such file"),
        (["convert", "BASE", "--to", "dense"], "not a skill file"),
        (["project", "SKILL", "--density", 0], "must be above 0 and at most 1, got 0"),
        (["project", "SKILL", "--density", "nan"], "must be above 0 and at most 1, got nan"),
        (["drop", "SKILL", "--density", 1.5], "must be above 0 and at most 1, got 1.5"),
        (["scale", "SKILL", "--factor", "inf"], "must be a number other than zero, got inf"),
        (["scale", "SKILL", "--factor", 0], "must be a number other than zero, got 0"),
        (["sum", "SKILL", "OTHER"], "has the base"),
        (["convert", "SKILL", "--base", "TWO", "--to", "dense"], "of their size apart"),
        (["convert", "CUT", "--to", "dense"], "file holds"),
        (["convert", "NEWER", "--to", "dense"], "newer genepool (skill file version 2, this one knows 1)"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: list[Any], said: str, models: dict[str, Path], skills: dict[str, Path], tmp_path: Path,
    cli: Callable[..., Any],
) -> None:  # fmt: skip
    whole = skills["one"].read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "newer.safetensors").write_bytes(whole.replace(b'"genepool_skill":"1"', b'"genepool_skill":"2"'))
    extract_skill(open_weights(models["one"]), open_weights(models["two"]), tmp_path / "other.safetensors")
    named = {
        "SKILL": skills["one"], "BASE": models["base"], "TWO": models["two"], "OTHER": tmp_path / "other.safetensors",
        "CUT": tmp_path / "cut.safetensors", "NEWER": tmp_path / "newer.safetensors",
    }  # fmt: skip
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "new" / "out.safetensors"
    answer = cli("skill", *[named.get(a, a) for a in arguments], "--out", out)
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.strip().count("error:") == 1
    assert sorted(tmp_path.iterdir()) == before or not out.exists()


def test_another_base_is_refused_with_its_distance_unless_forced(
    models: dict[str, Path], skills: dict[str, Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    answer = cli("skill", "apply", skills["one"], "--base", models["two"], "--out", tmp_path / "m")
    assert answer.code == 2
    assert "the bases are 1." in answer.err
    assert cli("skill", "apply", skills["one"], "--base", models["two"], "--out", tmp_path / "m", "--force").code == 0
    merged, two, one = (open_weights(path) for path in (tmp_path / "m", models["two"], skills["one"].parent / "one"))
    name, base = "model.layers.0.mlp.up_proj.weight", open_weights(models["base"])
    torch.testing.assert_close(merged.read(name), two.read(name) + one.read(name) - base.read(name))


def test_a_change_that_is_not_finite_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    tensors = {**_drawn(0, 1.0), STILL: torch.full((16,), float("nan"))}
    _save(tmp_path / "bad.safetensors", tensors)
    with pytest.raises(InputError, match=f"{STILL}.*NaN"):
        extract_skill(
            open_weights(tmp_path / "bad.safetensors"), open_weights(models["base"]), tmp_path / "s.safetensors"
        )
    assert not (tmp_path / "s.safetensors").exists()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.name}-{form.dtype or form.packing}-{form.rank}")
def test_the_same_skill_is_the_same_file(form: Form, models: dict[str, Path], tmp_path: Path) -> None:
    changes = open_change(models["one"], open_weights(models["base"]))
    digests = {
        SkillFile(
            store(changes, tmp_path / f"{threads}-{i}.safetensors", form, "extract", threads=threads).path
        ).digest()
        for threads in (1, 2, 7)
        for i in range(3)
    }
    assert len(digests) == 1


@pytest.mark.slow
@given(data=st.data())
def test_damaged_files_are_one_error_or_another_skill(data: st.DataObject, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    _save(folder / "base.safetensors", _drawn(0, 1.0))
    _save(folder / "tuned.safetensors", {key: value + _drawn(1, 0.01)[key] for key, value in _drawn(0, 1.0).items()})
    base = open_weights(folder / "base.safetensors")
    form = data.draw(st.sampled_from(FORMS))
    changes = open_change(str(folder / "tuned.safetensors"), base)
    # The folder's name is another in every run, and must not be in the file.
    changes.header = Header(base.fingerprint())
    changes.identity = dict  # type: ignore[method-assign]
    path = store(changes, folder / "s.safetensors", form, "extract").path
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(place, len(raw)))] if data.draw(st.booleans()) else raw)
    try:
        file = SkillFile(path)
        for name in file.names():
            file.whole(name)
    except InputError as error:
        assert str(path.parent) in str(error) or "#" in str(error)
