"""Token routers are what their definitions say, whatever the batch and the cache, and PEFT's where it has the same."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from genepool.composition import SkillSet, load_composition, make_composer, open_skills
from genepool.composition.composers.k_shot import JudgedAdapter, chosen, ranked
from genepool.composition.kept_fit import HeldOutLooks
from genepool.composition.mixing.layer_factors import LayerFactors
from genepool.composition.routing.adapter_composition import AdapterComposition
from genepool.composition.routing.arrow_router import ArrowRouter, prototypes
from genepool.composition.routing.layer_gates import LayerGates
from genepool.composition.routing.shares import mean_weights, warnings_of
from genepool.composition.routing.token_scores import TokenScores
from genepool.tasks import Decoding, open_model

sys.path.append(str(Path(__file__).parents[2] / "tasks"))
from tiny_models import write_model

Cli = Callable[..., Any]
PROMPTS = ["abcd=", "h=", "fedcbahg=", "aa="]
DECODING = Decoding(max_new_tokens=5)


def skills_of(bed: Path, *names: str) -> SkillSet:
    return open_skills(str(bed / "base"), [str(bed / "lora" / name) for name in names or ("one", "two")])


def composition(bed: Path, method: str, tensors: dict[str, torch.Tensor], *names: str, **options: Any) -> Any:
    """What a fit would have left: a composition of these tensors."""
    from genepool.composition.composers.x_lora import XLoraComposition

    kind = XLoraComposition if method == "x_lora" else AdapterComposition
    composer: Any = make_composer(method, options)
    return kind(composer, skills_of(bed, *names), {}, tensors)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


#: Routers of the text bed: two layers of width 16, two skills in four matrices.
ROUTERS: dict[str, tuple[str, dict[str, torch.Tensor], dict[str, Any]]] = {
    "lora_flow": ("lora_flow", {"gates": drawn(2, 2, 16), "biases": drawn(2, 2, seed=1)}, {}),
    "k_shot": ("k_shot", {"gates": drawn(2, 2, 16)}, {}),
    "x_lora": ("x_lora", {"weight": drawn(2, 16), "bias": drawn(2, seed=1)}, {}),
    "x_lora, layerwise": ("x_lora", {"weight": drawn(8, 16), "bias": drawn(8, seed=1)}, {"layerwise": True}),
    "x_lora, early": ("x_lora", {"weight": drawn(2, 16), "bias": drawn(2, seed=1)}, {"reads": 1}),
}


@pytest.fixture(scope="module")
def arrow_folder(text_bed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from genepool.composition import save_composition
    from genepool.composition.world import World

    out = tmp_path_factory.mktemp("arrow") / "arrow"
    composer = make_composer("arrow", {"top": 1})
    save_composition(composer.fit(World(skills_of(text_bed), [])), out)
    return out


def loaded(bed: Path, arrow: Path, name: str) -> Any:
    if name == "arrow":
        return load_composition(arrow).load()
    method, tensors, options = ROUTERS[name]
    return composition(bed, method, tensors, **options).load()


# ---------------------------------------------------------------------- cache and batch


def written_alone(model: Any, prompt: str) -> str:
    """What reading everything again for each token writes."""
    lead, network = getattr(model, "base", model), model.model
    ids = list(lead.encode(prompt))
    start = len(ids)
    with torch.inference_mode():
        for _ in range(DECODING.max_new_tokens):
            token = int(network(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in lead.end_tokens:
                break
            ids.append(token)
    return str(lead.decode(ids[start:]))


@pytest.mark.parametrize("name", ["arrow", *ROUTERS])
def test_a_cache_and_a_batch_change_nothing(text_bed: Path, arrow_folder: Path, name: str) -> None:
    """Decoding with a cache, in a padded batch, writes what reading everything again writes for each prompt alone."""
    model = loaded(text_bed, arrow_folder, name)
    written = [one.text for one in model.write(PROMPTS, PROMPTS, DECODING, 4)]
    assert written == [written_alone(model, prompt) for prompt in PROMPTS]
    # The routers decide something: the answers are not those of the base.
    plain = [one.text for one in open_model(text_bed / "base").load().write(PROMPTS, PROMPTS, DECODING, 4)]
    assert written != plain


@pytest.fixture(scope="module")
def opt_bed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/ and lora/{one,two} of OPT, which flattens the tokens of all rows in front of fc1 and fc2."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    bed = tmp_path_factory.mktemp("opt")
    write_model(bed / "base", kind="opt")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        config = LoraConfig(r=2, target_modules=["fc1", "fc2"], init_lora_weights=False)
        tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(bed / "base"), config)
        tuned.save_pretrained(str(bed / "lora" / name))
    return bed


@pytest.mark.parametrize("name", ROUTERS)
def test_layers_that_flatten_tokens_get_the_weights_of_each_token(opt_bed: Path, name: str) -> None:
    """One prompt read at once equals the same prompt token by token, and a batch is read as each prompt alone."""
    method, tensors, options = ROUTERS[name]
    model = composition(opt_bed, method, tensors, **options).load()
    ids = torch.tensor([getattr(model, "base", model).encode("abcd=")])
    with torch.inference_mode():
        whole, state, parts = model.model(input_ids=ids, use_cache=False).logits, None, []
        for at in range(ids.shape[1]):
            result = model.model(input_ids=ids[:, at : at + 1], past_key_values=state, use_cache=True)
            state = result.past_key_values
            parts.append(result.logits)
    assert torch.allclose(whole, torch.cat(parts, 1), atol=1e-4)
    written = [one.text for one in model.write(PROMPTS, PROMPTS, DECODING, 4)]
    assert written == [written_alone(model, prompt) for prompt in PROMPTS]


def test_two_passes_decode_with_beams_as_without_a_cache(text_bed: Path) -> None:
    method, tensors, options = ROUTERS["x_lora"]
    model = composition(text_bed, method, tensors, **options).load()
    ids = torch.tensor([model.base.encode("abcd=")])
    asked = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    found = [model.model.generate(ids, use_cache=cache, **asked) for cache in (True, False)]
    assert torch.equal(*found)


# ---------------------------------------------------------------------- definitions


@settings(max_examples=25)
@given(seed=st.integers(0, 999), rank=st.integers(1, 5))
def test_prototypes_are_the_first_right_singular_vectors(seed: int, rank: int) -> None:
    dice = torch.Generator().manual_seed(seed)
    down, up = torch.randn(rank, 6, generator=dice), torch.randn(rank, 5, generator=dice)
    layer = LayerFactors([None, (down, up)], [None, None], inputs=6, outputs=5, like=torch.zeros(1))
    found = prototypes(layer)
    _, values, right = np.linalg.svd((up.mT @ down).double().numpy())
    if rank > 1 and values[1] > 0.99 * values[0]:
        return
    assert abs(float(found[1].double() @ torch.from_numpy(right[0]))) == pytest.approx(1, abs=1e-4)
    assert float(found[1].norm()) == pytest.approx(1, abs=1e-5)
    assert not found[0].any()


def test_arrow_by_hand() -> None:
    """The softmax over the two largest absolute products; the third skill leaves the layer alone."""
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.6, 0.8]])
    absent, x = {"w": torch.tensor([False, False, True, False])}, torch.tensor([[-3.0, 1.0]])
    found = ArrowRouter({"w": vectors}, absent, 2, 2.0).weights("w", x)
    first, second = np.exp(3 / 2), np.exp(1 / 2)
    # |-3|, |1|, none, |-1.8 + 0.8| = 1: of the equal ones one is taken.
    assert sorted(found[0].tolist()) == pytest.approx([0, 0, second / (first + second), first / (first + second)])
    assert float(found[0, 0]) == pytest.approx(first / (first + second))
    assert float(found[0, 2]) == 0
    # The sign of a direction has no meaning.
    flipped, straight = (ArrowRouter({"w": one}, absent, 3, 2.0).weights("w", x) for one in (-vectors, vectors))
    assert torch.equal(flipped, straight)


def test_gates_and_scores_by_hand() -> None:
    gates, biases = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[0.5, -0.25]])
    gated = LayerGates(gates, biases, 2.0, {"w": 0}).weights_before(0, torch.tensor([3.0, 1.0]))
    shares = np.exp([1.5, 1.0]) / np.exp([1.5, 1.0]).sum()
    assert gated.tolist() == pytest.approx([shares[0] + 0.5, shares[1] - 0.25])
    scores = TokenScores(gates[0], torch.tensor([0.0, 1.0]), 2.0, ["v", "w"], layerwise=False)
    assert scores.weights("w", torch.zeros(1)) is None
    scores.score(torch.tensor([[[3.0, 1.0]]]))
    found = scores.weights("w", torch.zeros(1))
    assert found is not None
    expected = np.exp([1.5, 1.5]) / np.exp([1.5, 1.5]).sum()
    assert found.flatten().tolist() == pytest.approx(expected.tolist())


def test_biases_that_leave_one_skill_are_this_skill(text_bed: Path) -> None:
    """With equal scores and biases of 1/2 and -1/2 the first adapter answers alone, in every layer."""
    tensors = {"gates": torch.zeros(2, 2, 16), "biases": torch.tensor([[0.5, -0.5]] * 2)}
    model = composition(text_bed, "lora_flow", tensors).load()
    alone = skills_of(text_bed).skills[0].source.load()
    found, expected = (one.loglikelihoods(PROMPTS, ["dcba"] * 4) for one in (model, alone))
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in expected], rel=1e-4)


def test_early_scores_leave_the_layers_before_them_alone(text_bed: Path) -> None:
    method, tensors, _ = ROUTERS["x_lora"]
    base = open_model(text_bed / "base").load()
    before = base.hidden_states(["abcd="])[0]
    model = composition(text_bed, method, tensors, reads=1).load()
    after = model.hidden_states(["abcd="])[0]
    torch.testing.assert_close(after[1], before[1])
    assert not torch.allclose(after[2], before[2], atol=1e-3)


def test_candidates_are_ranked_and_kept_by_hand() -> None:
    def sketch(*values: float) -> np.ndarray:
        return np.array(values, np.float32)

    found = [
        JudgedAdapter("a", 0.5, 1.0, sketch(1, 0)),
        JudgedAdapter("b", 0.9, 0.5, sketch(0, 1)),
        JudgedAdapter("c", 0.9, 0.7, sketch(0.1, 1)),
        JudgedAdapter("d", 0.1, 2.0, sketch(1, 1)),
        JudgedAdapter("e", 0.5, 0.9, sketch(1, -1)),
    ]
    # By score b, c: 0, a, e: 2, d: 4; by loss b, c, e, a, d: 0 to 4.
    assert ranked(found) == [1, 2, 4, 0, 3]
    kept, left = chosen(found, ranked(found), 2, 0.8)
    assert kept == [1, 4]
    assert left[2].startswith("cosine 0.995 with b")
    assert left[0] == left[3] == "2 adapters were better"
    assert chosen(found, ranked(found), 5, 1.0)[0] == [1, 2, 4, 0, 3]


def test_who_never_answers_and_who_always_does_is_told() -> None:
    assert warnings_of({"s": [0.5, 0.5], "t": [0.2, 0.8]}, ["a", "b"]) == []
    found = warnings_of({"s": [0.001, 0.999], "t": [0.0, 1.0]}, ["a", "b"])
    assert len(found) == 2
    assert found[0].startswith("a: the router never lets it answer")
    assert found[1].startswith("b: the router lets it alone answer")


# ---------------------------------------------------------------------- through the command


def told(answer: Any) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    return dict(json.loads(answer.out))


def compose(cli: Cli, bed: Path, out: Path, method: str, *options: Any) -> dict[str, Any]:
    answer = cli(
        "compose", method, bed / "lora" / "one", bed / "lora" / "two", "--base", bed / "base", "--tasks",
        bed / "tasks", "--examples", 8, "--out", out, "--json", *options,
    )  # fmt: skip
    return told(answer)


QUICK = [word for key, value in {"steps": 6, "every": 2, "batch": 8}.items() for word in ("--set", f"{key}={value}")]
LEARNED: dict[str, list[Any]] = {
    "lora_flow": [],
    "x_lora": ["--set", "layerwise=true"],
    "k_shot": ["--set", "cosine=1.0"],
}


@pytest.mark.slow
@pytest.mark.parametrize("method", LEARNED)
def test_a_router_is_fitted_and_stands_where_a_model_is_named(
    cli: Cli, text_bed: Path, tmp_path: Path, method: str
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    said = compose(cli, text_bed, out, method, *QUICK, *LEARNED[method])
    record = said["record"]
    assert said["form"] == "composition"
    assert record["loss"][-1] < record["loss"][0]
    assert set(record["shares"]) == {"one", "two"}
    if method == "x_lora":
        assert all(sum(one.values()) == pytest.approx(1, abs=1e-3) for one in record["shares"].values())
    assert compose(cli, text_bed, again, method, *QUICK, *LEARNED[method])["record"] == record
    asked = ("--tasks", text_bed / "tasks", "--json", "--ledger", tmp_path / "l.sqlite")
    first = told(cli("evaluate", out, *asked))
    assert first["evaluated"] == 16
    # The same router is the same model.
    assert told(cli("evaluate", again, *asked))["evaluated"] == 0
    assert cli("compare", text_bed / "base", out, *asked[:3]).code == 0
    texts = told(cli("generate", out, "--prompt", "abcd=", "--json"))["results"]
    assert texts[0]["output"] == load_composition(out).load().generate(["abcd="])[0]
    refused = cli("merge", out, tmp_path / "merged")
    assert refused.code == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["x_lora", "poly"])
def test_a_fit_that_was_stopped_goes_on_to_the_same_bits(
    cli: Cli, text_bed: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    compose(cli, text_bed, whole, method, *QUICK)
    add = HeldOutLooks.add

    def stopped(self: HeldOutLooks, step: int, loss: float | None, control: float | None = None) -> bool:
        ended = add(self, step, loss, control)
        if step == 4:
            raise KeyboardInterrupt
        return ended

    monkeypatch.setattr(HeldOutLooks, "add", stopped)
    line = ("compose", method, text_bed / "lora" / "one", text_bed / "lora" / "two", "--base", text_bed / "base")
    more = ("--tasks", text_bed / "tasks", "--examples", 8, "--out", resumed, *QUICK)
    assert cli(*line, *more).code == 130
    assert not resumed.exists()
    monkeypatch.setattr(HeldOutLooks, "add", add)
    answer = cli(*line, *more)
    assert answer.code == 0
    assert "going on after step 4" in answer.err
    first, second = (load_file(folder / "router.safetensors") for folder in (whole, resumed))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_base_that_predicts_nan_is_refused_before_the_first_step(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    bed = tmp_path / "bed"
    shutil.copytree(text_bed, bed)
    tensors = load_file(bed / "base" / "model.safetensors")
    next(one for one in tensors.values() if one.dim() == 2)[:] = float("nan")
    save_file(tensors, bed / "base" / "model.safetensors", metadata={"format": "pt"})
    answer = cli(
        "compose", "lora_flow", bed / "lora" / "one", bed / "lora" / "two", "--base", bed / "base", "--tasks",
        bed / "tasks", "--examples", 8, "--out", tmp_path / "out", *QUICK,
    )  # fmt: skip
    assert answer.code == 2
    assert "after step 0 is not a finite number before anything was learned. Check the base and the" in answer.err
    assert not (tmp_path / "out").exists()


def test_bundled_adapters_need_not_be_there_any_more(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    bed = tmp_path / "bed"
    shutil.copytree(text_bed, bed)
    named = [bed / "lora" / name for name in ("one", "two")]
    assert cli("compose", "arrow", *named, "--base", bed / "base", "--keep", "--bundle", "--out", bed / "out").code == 0
    before = cli("generate", bed / "out", "--prompt", "abcd=").out
    shutil.rmtree(bed / "lora")
    assert cli("generate", bed / "out", "--prompt", "abcd=").out == before


@pytest.mark.slow
def test_a_router_learns_without_labels(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    settings = ("--set", "objective=match", "--set", "check_inputs=false")
    record = compose(cli, text_bed, tmp_path / "out", "lora_flow", *QUICK, *settings)["record"]
    assert record["loss"][-1] < record["loss"][0]


def test_k_shot_keeps_one_adapter_and_says_why_not_the_other(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record = compose(cli, text_bed, out, "k_shot", "--set", "experts=1")["record"]
    assert sorted(one["kept"] for one in record["ranking"]) == [False, True]
    assert record["ranking"][1]["why_not"] == "1 adapters were better"
    kept = load_composition(out)
    assert kept.skills.names == [record["ranking"][0]["skill"]]
    alone = skills_of(text_bed, *kept.skills.names).skills[0].source.load()
    assert kept.load().generate(PROMPTS) == alone.generate(PROMPTS)


def test_an_adapter_whose_likelihoods_are_no_numbers_is_the_worst(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    """NaN is below no other loss: the adapter would be kept for it."""
    bed = tmp_path / "bed"
    shutil.copytree(text_bed, bed)
    place = bed / "lora" / "one" / "adapter_model.safetensors"
    tensors = load_file(place)
    save_file({n: t * 1e38 if "up_proj.lora_B" in n else t for n, t in tensors.items()}, place, {"format": "pt"})
    record = compose(cli, bed, tmp_path / "out", "k_shot", "--set", "experts=1")["record"]
    assert [(one["skill"], one["kept"]) for one in record["ranking"]] == [("two", True), ("one", False)]
    assert record["ranking"][1]["loss"] is None


def test_token_weights_of_a_prompt(text_bed: Path, arrow_folder: Path) -> None:
    for name in ("arrow", "lora_flow", "x_lora"):
        model = loaded(text_bed, arrow_folder, name)
        tokens, weights = model.token_weights("ab=", "ba")
        assert tokens[-5:] == ["a", "b", "=", "b", "a"]
        assert weights.shape == (len(tokens), 2)
        if name != "lora_flow":
            assert torch.allclose(weights.sum(1), torch.ones(len(tokens)), atol=1e-5)
        # A token of the answer is shown with the weights at the token before it.
        (used,) = model.skills_used(["ab="], ["ba"])
        assert [token for token, _ in used.tokens] == ["b", "a"]
        for (_, shown), row in zip(used.tokens, weights[-3:-1].tolist(), strict=True):
            assert shown == pytest.approx({n: w for n, w in zip(["one", "two"], row, strict=True) if abs(w) >= 5e-4})


@pytest.mark.parametrize("name", ["x_lora", "x_lora, layerwise", "x_lora, early"])
def test_mean_weights_are_those_of_the_tokens(text_bed: Path, arrow_folder: Path, name: str) -> None:
    model = loaded(text_bed, arrow_folder, name)
    expected = torch.cat([model.token_weights(prompt)[1] for prompt in PROMPTS]).double().mean(0)
    assert torch.allclose(mean_weights(model, PROMPTS), expected, atol=1e-6)


def test_skills_are_shown_token_by_token(cli: Cli, text_bed: Path, arrow_folder: Path) -> None:
    said = told(cli("generate", arrow_folder, "--prompt", "ab=", "--max-new-tokens", 2, "--show-skills", "--json"))
    (found,) = said["results"]
    assert {name for one in found["tokens"] for name in one["skills"]} <= {"one", "two"}
    assert "".join(one["token"] for one in found["tokens"]) == found["output"]


# ---------------------------------------------------------------------- what cannot be used


def refused(answer: Any, *parts: str) -> None:
    lines = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert answer.code == 2, answer.err
    assert len(lines) == 1
    for part in parts:
        assert part in lines[0]


def test_skills_that_are_no_lora_are_refused_with_the_way_out(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    shutil.copytree(text_bed / "base", tuned)
    tensors = load_file(tuned / "model.safetensors")
    save_file({n: one + 0.01 for n, one in tensors.items()}, tuned / "model.safetensors", {"format": "pt"})
    answer = cli(
        "compose", "arrow", tuned, text_bed / "lora" / "one", "--base", text_bed / "base", "--out", tmp_path / "out"
    )
    refused(answer, "the skills cannot stand beside the base", "genepool skill extract TUNED")
    assert not (tmp_path / "out").exists()


def test_a_layer_that_the_base_has_not_is_told_by_its_option(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    skills = [text_bed / "lora" / name for name in ("one", "two")]
    answer = cli(
        "compose", "x_lora", *skills, "--base", text_bed / "base", "--tasks", text_bed / "tasks", "--examples", 4,
        "--set", "reads=99", "--out", tmp_path / "out",
    )  # fmt: skip
    refused(answer, "--set reads: there is no layer 99, the base has 2")


def test_what_was_altered_or_is_missing_is_told(cli: Cli, text_bed: Path, arrow_folder: Path, tmp_path: Path) -> None:
    bed = tmp_path / "bed"
    shutil.copytree(text_bed, bed)
    out = bed / "out"
    assert (
        cli("compose", "arrow", bed / "lora" / "one", bed / "lora" / "two", "--base", bed / "base", "--out", out).code
        == 0
    )
    asked = ("generate", out, "--prompt", "a=")
    file = out / "router.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name][:, :5].contiguous()}, file, {"format": "pt"})
    refused(cli(*asked), f"router.safetensors:{name}", "has shape [2, 5], expected [2, 16]")
    save_file({**tensors, name: tensors[name] * float("nan")}, file, {"format": "pt"})
    refused(cli(*asked), f"router.safetensors:{name}", "no finite numbers")
    save_file(tensors, file, {"format": "pt"})
    assert cli(*asked).code == 0
    shutil.rmtree(bed / "lora" / "two")
    refused(cli(*asked), "two (sha256", "is missing")
