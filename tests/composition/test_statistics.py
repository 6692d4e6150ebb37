"""Fisher, RegMean and RegMean++: the statistics are what they are said to be, and a recipe can merge by them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from genepool.composition import World, load_composition, open_skills
from genepool.composition.calibration import SkillCalibration, fisher_information, gram_matrices
from genepool.composition.linear_layers import LinearLayer, linear_layers
from genepool.errors import InputError
from genepool.tasks import load_tasks, open_model
from genepool.tasks.models.digits.network import DigitsTransformer

Cli = Callable[..., Any]
METHODS = ["fisher", "regmean", "regmean_pp"]


@pytest.fixture
def composed(cli: Cli, small_bed: Path, tmp_path: Path) -> Callable[..., Path]:
    """`composed("fisher", "--keep")`: the folder."""

    def call(method: str, *options: Any, skills: tuple[str, ...] = ("first", "second"), out: str = "out") -> Path:
        named = [small_bed / "full" / one for one in skills]
        answer = cli(
            "compose", method, *named, "--base", small_bed / "base", "--tasks", small_bed / "tasks", "--examples", 6,
            "--out", tmp_path / out, "-q", *options,
        )  # fmt: skip
        assert answer.code == 0, answer.err
        return tmp_path / out

    return call


def calibrated(bed: Path, examples: int = 6) -> SkillCalibration:
    skills = open_skills(str(bed / "base"), [str(bed / "full" / "first")])
    return SkillCalibration(World(skills, load_tasks(bed / "tasks", ["first"]), examples=examples), 0)


def network_and_pixels(calibration: SkillCalibration) -> tuple[DigitsTransformer, torch.Tensor]:
    batches = list(calibration.batches())
    assert all(len(batch.numbers) == 1 for batch in batches)
    return calibration.network.model, torch.cat([batch.inputs["pixels"] for batch in batches])


# ---------------------------------------------------------------------- what they are


def test_the_expected_fisher_of_a_bias_is_the_variance_of_the_label(small_bed: Path) -> None:
    """The gradient of log p_y by the bias of class c is [y = c] - p_c, so over labels its square is p_c (1 - p_c)."""
    calibration = calibrated(small_bed)
    network, pixels = network_and_pixels(calibration)
    with torch.no_grad():
        p = network(pixels).softmax(-1)
    found = fisher_information(calibration, ["head.bias"], "expected")["head.bias"]
    torch.testing.assert_close(found, (p * (1 - p)).mean(0))


def test_the_sampled_fisher_is_a_mean_of_squares_of_single_examples(small_bed: Path) -> None:
    """Each example's square is ([y = c] - p_c)^2 for one y: never the square of a mean."""
    calibration = calibrated(small_bed, 1)
    network, pixels = network_and_pixels(calibration)
    with torch.no_grad():
        p = network(pixels).softmax(-1)[0]
    possible = [(torch.eye(10)[y] - p).square() for y in range(10)]
    found = fisher_information(calibration, ["head.bias"], "sampled")["head.bias"]
    assert any(torch.allclose(found, one, atol=1e-6) for one in possible)
    many = calibrated(small_bed, 24)
    assert float(fisher_information(many, ["head.bias"], "sampled")["head.bias"].sum()) > 0.01


def test_gram_matrices_are_those_of_the_inputs(small_bed: Path) -> None:
    calibration = calibrated(small_bed)
    network, pixels = network_and_pixels(calibration)
    layers = linear_layers(network)
    found = gram_matrices(calibration, {name: layers[name] for name in ("head.weight", "blocks.1.mlp.fc1.weight")})
    with torch.no_grad():
        states = network.states(pixels)
        last = network.norm(states[-1][:, 0]).double()
        before = states[1] + network.blocks[1].attn(network.blocks[1].norm1(states[1]))
        inner = network.blocks[1].norm2(before).reshape(-1, 8).double()
    torch.testing.assert_close(found["head.weight"], (last.T @ last / 6).float())
    torch.testing.assert_close(found["blocks.1.mlp.fc1.weight"], (inner.T @ inner / len(inner)).float())


def test_a_layer_that_lies_the_other_way_round_is_known(text_bed: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    layers = linear_layers(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=12, n_positions=8)))
    assert layers["transformer.h.0.attn.c_attn.weight"].transposed
    # Its head is the embedding, which has no inputs.
    assert "lm_head.weight" not in layers
    assert not any(one.transposed for one in linear_layers(open_model(str(text_bed / "base")).load().model).values())  # type: ignore[attr-defined]


def test_padding_never_counts(text_bed: Path) -> None:
    """Prompts of other lengths, asked with a short one, leave its part of the sum alone."""
    skills = open_skills(str(text_bed / "base"), [str(text_bed / "lora" / "one")])
    calibration = SkillCalibration(World(skills, load_tasks(text_bed / "tasks", ["one"]), examples=5), 0)
    places = sum(batch.inputs["input_ids"].numel() for batch in calibration.batches())
    layers = linear_layers(calibration.network.model)
    name = next(name for name in layers if "up_proj" in name)
    seen: list[torch.Tensor] = []
    hook = layers[name].module.register_forward_pre_hook(
        lambda _m, given: seen.append(given[0].reshape(-1, given[0].shape[-1]))
    )
    found = gram_matrices(calibration, {name: layers[name]})[name]
    hook.remove()
    rows = torch.cat(seen).double()
    assert len(rows) == places
    torch.testing.assert_close(found, (rows.T @ rows / places).float())


def test_what_is_not_finite_is_refused(small_bed: Path) -> None:
    calibration = calibrated(small_bed)
    layer = linear_layers(calibration.network.model)["blocks.1.mlp.fc2.weight"]
    with torch.no_grad():
        calibration.network.model.blocks[1].mlp.fc1.weight.mul_(float("inf"))
    with pytest.raises(InputError, match="goes into blocks.1.mlp.fc2.weight is NaN or infinity"):
        gram_matrices(calibration, {"blocks.1.mlp.fc2.weight": layer})
    with pytest.raises(InputError, match="the gradient of head.bias is NaN or infinity"):
        fisher_information(calibration, ["head.bias"], "sampled")


def test_a_layer_that_no_example_reaches_has_zeros(small_bed: Path) -> None:
    unused = LinearLayer(torch.nn.Linear(3, 2), False)
    assert not gram_matrices(calibrated(small_bed), {"unused": unused})["unused"].any()


# ---------------------------------------------------------------------- through the command


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_kept_statistics_are_a_file_that_a_recipe_merges_by(
    composed: Callable[..., Path], cli: Cli, small_bed: Path, tmp_path: Path, method: str
) -> None:
    kept, folded = composed(method, "--keep", out="kept"), composed(method, out="folded")
    recipe = {
        "genepool": 1, "method": method.removesuffix("_pp"), "base": str(small_bed / "base"),
        "statistics": "kept/router.safetensors",
        "models": [str(small_bed / "full" / name) for name in ("first", "second")],
        "parameters": {"off_diagonal": 0.95} if method == "regmean_pp" else {},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    answer = cli("merge", tmp_path / "recipe.yaml", tmp_path / "merged")
    assert answer.code == 0, answer.err
    one, other = load_file(folded / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    base = load_file(small_bed / "base" / "model.safetensors")
    assert any(not torch.equal(one[name], base[name]) for name in one)
    # The saved composition is the same model again.
    asked = json.loads(cli("evaluate", kept, folded, "--tasks", small_bed / "tasks", "--json").out)["results"]
    means: dict[str, list[float]] = {}
    for row in asked:
        means.setdefault(row["model"], []).append(row["mean"])
    assert len(means) == 2
    assert len({tuple(values) for values in means.values()}) == 1


@pytest.mark.slow
def test_statistics_know_the_copies_of_their_skills(composed: Callable[..., Path]) -> None:
    kept, bundled = (
        load_composition(composed("regmean", "--keep", *more, out=out))
        for out, more in (("kept", ()), ("bundled", ("--bundle",)))
    )
    one, other = kept.fold().applied(), bundled.fold().applied()
    assert all(torch.equal(one.read(name), other.read(name)) for name in one.names())


@pytest.mark.parametrize("method", METHODS)
def test_a_skill_by_itself_is_kept_and_its_weight_counts(
    composed: Callable[..., Path], small_bed: Path, method: str
) -> None:
    first = load_file(small_bed / "full" / "first" / "model.safetensors")
    found = load_file(composed(method, "--set", "weights=[1, 0]") / "model.safetensors")
    for name, values in first.items():
        # What calibration cannot tell is the mean, which here is the first skill too.
        assert torch.allclose(found[name], values, atol=2e-5), name


def test_regmean_pp_looks_at_inputs_behind_merged_layers(composed: Callable[..., Path]) -> None:
    """The first layer reads the image, whatever is merged; every later one does not."""
    plain, looked = (load_file(composed(m, "--keep", out=m) / "router.safetensors") for m in ("regmean", "regmean_pp"))
    assert plain.keys() == looked.keys()
    for name in plain:
        same = torch.allclose(plain[name], looked[name], rtol=1e-4, atol=1e-6)
        assert same == name.endswith("/patch_embed.weight"), name


def test_regmean_is_the_least_squares_of_every_skills_inputs(composed: Callable[..., Path], small_bed: Path) -> None:
    """At the minimum of `sum_i |X_i (W - W_i)^T|^2` the gradient `sum_i (W - W_i) G_i` is zero; not so at the mean."""
    merged = load_file(composed("regmean", "--set", "off_diagonal=1") / "model.safetensors")
    kept = composed("regmean", "--keep", out="kept")
    grams = load_file(kept / "router.safetensors")
    skills = {one["name"]: one["fingerprint"] for one in json.loads((kept / "composition.json").read_text())["skills"]}
    for name in ("blocks.0.mlp.fc1.weight", "blocks.1.attn.proj.weight"):
        tuned = [load_file(small_bed / "full" / one / "model.safetensors")[name].double() for one in skills]
        known = [grams[f"gram/{key}/{name}"].double() for key in skills.values()]

        def slope(weights: torch.Tensor, tuned: list[Any] = tuned, known: list[Any] = known) -> float:
            return float(sum((weights - t) @ g for t, g in zip(tuned, known, strict=True)).norm())

        assert slope(merged[name].double()) < 1e-4 * slope(sum(tuned) / 2)


@pytest.mark.slow
def test_adapters_are_averaged_too(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    skills = [text_bed / "lora" / name for name in ("one", "two")]
    for method in METHODS:
        answer = cli(
            "compose", method, *skills, "--base", text_bed / "base", "--tasks", text_bed / "tasks", "--examples", 1,
            "--out", tmp_path / method,
        )  # fmt: skip
        assert answer.code == 0, answer.err


def test_bad_input_is_one_clear_error(cli: Cli, composed: Callable[..., Path], small_bed: Path, tmp_path: Path) -> None:
    kept = composed("fisher", "--keep", out="kept") / "router.safetensors"
    models = [str(small_bed / "full" / name) for name in ("first", "second")]
    broken = {name: tensor.clone() for name, tensor in load_file(kept).items()}
    one = next(name for name in broken if name.endswith("/head.bias"))
    save_file({**broken, one: broken[one] * float("nan")}, tmp_path / "nan.safetensors")
    save_file({**broken, one: broken[one][:3].clone()}, tmp_path / "short.safetensors")
    plain = {"genepool": 1, "method": "fisher", "base": str(small_bed / "base"), "models": models}
    for changes, message in (
        ({}, "statistics: fisher needs fisher statistics of the models"),
        ({"statistics": "absent.safetensors"}, "no such file of statistics"),
        ({"statistics": str(kept), "method": "regmean"}, "holds no gram statistics of"),
        ({"statistics": str(kept), "method": "ties"}, "statistics: ties uses no statistics. Remove the key"),
        (
            {"statistics": str(kept), "models": [*models, str(small_bed / "full" / "third")]},
            "holds no fisher statistics of",
        ),
        ({"statistics": str(tmp_path / "nan.safetensors")}, "holds NaN, infinity or a negative square"),
        ({"statistics": str(tmp_path / "short.safetensors")}, "is [3] of F32, expected floats of [10]"),
        ({"statistics": str(kept), "parameters": {"weight": 0}}, "every model has the weight 0"),
    ):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**plain, **changes}))
        answer = cli("merge", tmp_path / "recipe.yaml", tmp_path / "merged")
        assert answer.code == 2, changes
        assert message in answer.err, answer.err
        assert not (tmp_path / "merged").exists()


def test_a_skill_without_a_task_and_weights_of_another_number_are_refused(
    cli: Cli, small_bed: Path, tmp_path: Path
) -> None:
    skills = [small_bed / "full" / name for name in ("first", "second")]
    for more, message in (
        (("--task", "first"), "--task: no task that is chosen is called second"),
        (("--set", "weights=[1, 2, 3]"), "got 3 weights for 2 skills"),
        (("--set", "labels=all"), "labels"),
    ):
        answer = cli(
            "compose", "fisher", *skills, "--base", small_bed / "base", "--tasks", small_bed / "tasks", "--examples", 2,
            *more, "--out", tmp_path / "out",
        )  # fmt: skip
        assert answer.code == 2
        assert message in answer.err
        assert not (tmp_path / "out").exists()
