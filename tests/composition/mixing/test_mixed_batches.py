"""Batches whose requests want different skills: every answer is that of the skill alone, through the network and typed.

The world is a tiny Llama with adapters of different ranks, beside GPT-2, whose matrices lie the other way round.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from text_world import LETTERS
from tiny_models import write_model

from genepool.composition import load_composition, open_skills
from genepool.composition.mixing.attached import AttachedSkills, why_not_mixed
from genepool.composition.mixing.listeners import SkillByRequest, WeightsByRequest
from genepool.composition.mixing.mixtures import ChosenSkills
from genepool.composition.routing.routed_model import RoutedModel
from genepool.errors import InputError
from genepool.tasks import Decoding, Model, open_model
from genepool.tasks.answers import Question
from genepool.tasks.models.causal_lm import LanguageModel

Cli = Callable[..., Any]
PROMPTS = ["ab=", "abcdefgh=", "ab=", "c=", "hgfe=", "abcdefgh=", "ab="]
SKILLS = [0, 1, 1, -1, 0, 0, -1]


def write_adapter(base: Path, out: Path, seed: int, **settings: Any) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(init_lora_weights=False, **settings))
    with torch.no_grad():
        for key, parameter in tuned.named_parameters():
            if "lora_" in key or key.endswith(".bias"):
                parameter.add_(0.3 * torch.randn(parameter.shape))
    tuned.save_pretrained(str(out))
    return out


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, lora/one, which trains the biases of its layers too, and lora/two."""
    world = tmp_path_factory.mktemp("mixed-gpt2")
    base = write_model(world / "base", kind="gpt2")
    write_adapter(
        base, world / "lora" / "one", 1, r=2, lora_alpha=5, target_modules=["c_attn", "c_fc"], bias="lora_only"
    )
    write_adapter(base, world / "lora" / "two", 2, r=3, target_modules=["c_fc", "c_proj"])
    return world


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def world(request: pytest.FixtureRequest, text_bed: Path, gpt2: Path) -> Path:
    return text_bed if request.param == "llama" else gpt2


class Mixed:
    """A network with skills beside it, and each skill's own model."""

    def __init__(self, world: Path) -> None:
        self.skills = open_skills(str(world / "base"), [str(world / "lora" / name) for name in ("one", "two")])
        found = open_model(world / "base").load(dtype="float64")
        assert isinstance(found, LanguageModel)
        self.network = found
        self.attached = AttachedSkills(self.network.model, self.skills.vectors())
        alone = {-1: open_model(world / "base")} | {n: open_model(s.source) for n, s in enumerate(self.skills.skills)}
        self.alone = {number: source.load(dtype="float64") for number, source in alone.items()}

    def listener(self, skills: Sequence[int]) -> SkillByRequest:
        return SkillByRequest(self.attached, skills)


@pytest.fixture(scope="module")
def mixed(world: Path) -> Mixed:
    return Mixed(world)


def read_answers(model: Model, questions: Sequence[Question]) -> dict[int, torch.Tensor]:
    """The logits of each question's answer, read in batches of three."""
    return {
        number: logits
        for batch in model.answer_batches(questions, 3)
        for number, logits in zip(batch.numbers, batch.parts(model.answer_logits(batch)), strict=True)
    }


def test_the_answers_of_a_mixed_batch_are_those_of_each_skill_alone(mixed: Mixed) -> None:
    """Also where rows leave early, are alike but for their skill, and are read in several batches."""
    decoding = Decoding(max_new_tokens=6)
    keys = [str(number) for number in range(len(PROMPTS))]
    alone = [mixed.alone[s].write([p], [k], decoding)[0] for p, s, k in zip(PROMPTS, SKILLS, keys, strict=True)]
    assert len({one.text for one in alone}) > 3
    for size in (16, 3):
        with mixed.network.listened(mixed.listener(SKILLS)):
            found = mixed.network.write(PROMPTS, keys, decoding, size)
        assert [one.text for one in found] == [one.text for one in alone]
        assert [one.logprob for one in found] == pytest.approx([one.logprob for one in alone], abs=1e-5)
    # Whoever asks without naming skills is answered by the base, to the bit.
    assert mixed.network.write(PROMPTS, keys, decoding) == mixed.alone[-1].write(PROMPTS, keys, decoding)


def test_a_beginning_that_prompts_share_is_read_by_each_skill(mixed: Mixed) -> None:
    shown = "".join(LETTERS[i % 8] for i in range(33))
    prompts = [shown + "a=", shown + "b=", shown + "cc"]
    skills = [0, 1, 0]
    alone = [
        mixed.alone[s].write([p], [p], Decoding(max_new_tokens=3))[0] for p, s in zip(prompts, skills, strict=True)
    ]
    with mixed.network.listened(mixed.listener(skills)):
        found = mixed.network.write(prompts, prompts, Decoding(max_new_tokens=3))
    assert [one.text for one in found] == [one.text for one in alone]


def test_what_is_read_is_that_of_each_skill_alone(mixed: Mixed) -> None:
    answers = ["ba", "h", "ba", "", "ef", "hg", "abc"]
    pairs = list(zip(PROMPTS, answers, SKILLS, strict=True))
    decoding = Decoding(max_new_tokens=4)
    with mixed.network.listened(mixed.listener(SKILLS)):
        likely = mixed.network.loglikelihoods(PROMPTS, answers)
        forced = mixed.network.forced_answers(PROMPTS, answers, decoding, True, 3)
        states = mixed.network.hidden_states(PROMPTS)
        questions = [Question(str(n), p, a or "d") for n, (p, a, _) in enumerate(pairs)]
        read = read_answers(mixed.network, questions)
    for number, (prompt, answer, skill) in enumerate(pairs):
        own = mixed.alone[skill]
        assert isinstance(own, LanguageModel)
        expected = own.loglikelihoods([prompt], [answer])[0]
        assert likely[number].logprob == pytest.approx(expected.logprob, abs=1e-5)
        assert forced[number].matches == own.forced_answers([prompt], [answer], decoding, True, 1)[0].matches
        torch.testing.assert_close(states[number][-1], own.hidden_states([prompt])[0][-1])
        (batch,) = own.answer_batches([questions[number]])
        torch.testing.assert_close(read[number], own.answer_logits(batch))


def test_peft_gives_the_same_for_a_mixed_batch(text_bed: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(text_bed / "base", dtype=torch.float64)
    peer: Any = PeftModel.from_pretrained(base, str(text_bed / "lora" / "one"), adapter_name="one").double()
    peer.load_adapter(str(text_bed / "lora" / "two"), adapter_name="two")
    ids = torch.randint(4, 20, (4, 6), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = peer.double().eval()(input_ids=ids, adapter_names=["two", "one", "__base__", "two"]).logits
        ours = Mixed(text_bed)
        with ours.attached.mixing(ChosenSkills(torch.tensor([1, 0, -1, 1]), 2)):
            found = ours.network.model(input_ids=ids).logits
    torch.testing.assert_close(found, wanted)


def test_weights_that_are_one_skill_each_choose_it(mixed: Mixed) -> None:
    whole = WeightsByRequest(mixed.attached, torch.tensor([[0.0, 1], [0, 0], [1, 0]]))
    mixture = whole.mixture([2, 0, 1])
    assert isinstance(mixture, ChosenSkills)
    assert mixture.skills.tolist() == [0, 1, -1]
    assert not isinstance(WeightsByRequest(mixed.attached, torch.tensor([[0.5, 1]])).mixture([0]), ChosenSkills)


def test_skills_that_cannot_run_beside_the_base_say_why(text_bed: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tuned = shutil.copytree(text_bed / "base", tmp_path / "tuned")
    tensors = load_file(tuned / "model.safetensors")
    save_file(
        {k: v + 0.1 if "norm" in k else v for k, v in tensors.items()}, tuned / "model.safetensors", {"format": "pt"}
    )
    skills = open_skills(str(text_bed / "base"), [str(text_bed / "lora" / "one"), str(tuned)])
    loaded = open_model(text_bed / "base").load()
    assert isinstance(loaded, LanguageModel)
    reasons = why_not_mixed(skills.vectors(), loaded.model)
    assert set(reasons) == {1}
    # What changes norms alone may run beside the base, matrices that are no products may not.
    assert set(why_not_mixed(skills.vectors(), loaded.model, all_rows=True)) == {1}
    with pytest.raises(InputError, match="cannot run beside its base"):
        AttachedSkills(loaded.model, skills.vectors())


# ---------------------------------------------------------------------- typed


def lines(place: Path, rows: Sequence[dict[str, Any]]) -> Path:
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def requests(place: Path, bed: Path, skills: Sequence[str | None]) -> Path:
    rows = [
        {"prompt": prompt, **({} if skill is None else {"skill": str(bed / skill)})}
        for prompt, skill in zip(PROMPTS, skills, strict=False)
    ]
    return lines(place, rows)


def test_generate_answers_requests_as_each_skill_alone(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    base = text_bed / "base"
    named: list[str | None] = ["lora/one", "lora/two", None, "lora/two", "lora/one"]
    file = requests(tmp_path / "requests.jsonl", text_bed, named)
    said = json.loads(cli("generate", base, "--requests", file, "--show-skills", "--max-new-tokens", 6, "--json").out)
    assert len(said["results"]) == len(named)
    for one, name, prompt in zip(said["results"], named, PROMPTS, strict=False):
        model = base if name is None else f"{base}+{text_bed / name}"
        own = json.loads(cli("generate", model, "--prompt", prompt, "--max-new-tokens", 6, "--json").out)
        assert one["output"] == own["results"][0]["output"]
        assert one["skill"] == (None if name is None else str(text_bed / name))
        assert one["skills"] == ({} if name is None else {str(text_bed / name): 1.0})
    text = cli("generate", base, "--requests", file, "--show-skills", "--max-new-tokens", 2).out
    assert text.count("skills: ") == len(named)
    assert "skills: none, the base alone" in text


def test_a_skill_beside_the_requests_is_found_and_one_that_is_no_factors_answers_too(
    cli: Cli, text_bed: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(text_bed / "lora" / "one", tmp_path / "mine")
    tuned = shutil.copytree(text_bed / "base", tmp_path / "tuned")
    tensors = load_file(tuned / "model.safetensors")
    save_file({k: v * 1.3 for k, v in tensors.items()}, tuned / "model.safetensors", {"format": "pt"})
    rows = [{"prompt": "ab=", "skill": "mine"}, {"prompt": "ab=", "skill": "tuned"}, {"prompt": "ab="}]
    base = text_bed / "base"
    asked = ("--max-new-tokens", 6, "--json")
    found = json.loads(cli("generate", base, "--requests", lines(tmp_path / "r.jsonl", rows), *asked).out)
    models = [f"{base}+{tmp_path / 'mine'}", tuned, base]
    alone = [json.loads(cli("generate", model, "--prompt", "ab=", *asked).out) for model in models]
    assert [one["output"] for one in found["results"]] == [one["results"][0]["output"] for one in alone]


def test_mixed_batches_warn_of_the_adapter_that_holds_nan_and_of_no_other(
    cli: Cli, text_bed: Path, tmp_path: Path
) -> None:
    """Also of one whose factors are finite and whose product is not."""
    base, sound = text_bed / "base", text_bed / "lora" / "one"
    for name, spoil in (("nan", lambda one: one * math.nan), ("vast", lambda one: one * 1e30)):
        adapter = spoiled_adapter(sound, tmp_path / name, spoil)
        file = requests(tmp_path / f"{name}.jsonl", text_bed, ["lora/one", str(adapter), None])
        models = (base, f"{base}+{sound}", f"{base}+{adapter}")
        asked = ("--limit", 2, "--mixed")
        for called, answered in (
            (adapter, cli("generate", base, "--requests", file, "--max-new-tokens", 1)),
            (models[-1], cli("evaluate", *models, "--tasks", text_bed / "tasks", *asked)),
        ):
            assert answered.code == 0
            assert answered.err.count("warning: ") == 1
            assert f"warning: {called}:model.layers." in answered.err.replace("\n", "")


def spoiled_adapter(adapter: Path, out: Path, spoil: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, out)
    tensors = load_file(out / "adapter_model.safetensors")
    save_file({key: spoil(one) for key, one in tensors.items()}, out / "adapter_model.safetensors", {"format": "pt"})
    return out


def test_wrong_requests_are_told_by_line(cli: Cli, text_bed: Path, gpt2: Path, tmp_path: Path) -> None:
    base, file = text_bed / "base", tmp_path / "r.jsonl"
    other = shutil.copytree(base, tmp_path / "other")
    good = {"prompt": "ab=", "skill": str(text_bed / "lora" / "one")}
    rows: tuple[tuple[dict[str, Any], str], ...] = (
        ({"prompt": "a", "skill": f"{other}+{text_bed / 'lora' / 'two'}"}, f"{file}:2:skill: "),
        ({"prompt": "a", "skill": str(gpt2 / "lora" / "one")}, f"{file}:2:skill: "),
        ({"prompt": "a", "skill": str(gpt2 / "base")}, f"{file}:2:skill: "),
        ({"prompt": "a", "skill": "nothing"}, f"{file}:2:skill: "),
        ({"prompt": "a", "skil": "x"}, "Did you mean"),
        ({"prompt": 3}, f"{file}:2:prompt: got a number"),
        ({"prompt": "a", "skill": 3}, f"{file}:2:skill: got a number"),
        ({"skill": good["skill"]}, f"{file}:2:prompt: "),
        ({"prompt": "a", "skill": None}, f"{file}:2:skill: got null, expected a name. Leave `skill` out for the base"),
        ({"prompt": "a" * 90}, f"{file}:2:prompt: the prompt of 90 tokens does not fit the context of 40. Shorten it."),
    )
    for row, said in rows:
        answer = cli("generate", base, "--requests", lines(file, [good, row]), "-q")
        assert answer.code == 2
        assert answer.err.count("\n") == 1
        assert said in answer.err, answer.err
    file.write_text("{\n")
    assert "is not JSON" in cli("generate", base, "--requests", file).err
    file.write_text("\n")
    assert "holds no requests" in cli("generate", base, "--requests", file).err
    assert "stands beside other prompts" in cli("generate", base, "--requests", file, "--prompt", "a").err
    plain = cli("generate", base, "--prompt", "a", "--show-skills")
    assert plain.code == 2
    assert "does not choose among skills" in plain.err


@pytest.mark.parametrize("metric", ["exact_match", "likelihood", "multiple_choice"])
def test_evaluate_of_adapters_in_shared_batches_keeps_what_each_alone_gives(
    cli: Cli, text_bed: Path, tmp_path: Path, metric: str
) -> None:
    base = text_bed / "base"
    models = [base, f"{base}+{text_bed / 'lora' / 'one'}", f"{base}+{text_bed / 'lora' / 'two'}"]
    tasks = shutil.copytree(text_bed / "tasks", tmp_path / "tasks")
    for task in tasks.iterdir():
        (task / "task.yaml").write_text(f"metric: {metric}\nmax_new_tokens: 4\n")
        (task / "train.jsonl").unlink()
        if metric == "multiple_choice":
            rows = [json.loads(line) for line in (task / "test.jsonl").read_text().splitlines()]
            rows = [{**row, "choices": [row["answer"], row["answer"][::-1] + "a", "b"]} for row in rows]
            (task / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = {}
    for name, options in (("alone", ()), ("mixed", ("--mixed",))):
        ledger = tmp_path / f"{name}.sqlite"
        asked = ("evaluate", *models, "--tasks", tasks, "--ledger", ledger, "--outputs", "--json", *options)
        answer = cli(*asked)
        assert answer.code == 0, answer.err
        told[name] = json.loads(answer.out)
        assert json.loads(cli(*asked).out)["evaluated"] == 0
        cli("outcomes", "export", "--ledger", ledger, tmp_path / f"{name}.jsonl")
    assert told["mixed"]["evaluated"] == 48
    for one, other in zip(told["alone"]["results"], told["mixed"]["results"], strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert other[key] == (value if isinstance(value, str | int) else pytest.approx(value, abs=1e-5)), key
    rows = [
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("alone", "mixed")
    ]
    keyed = [{(row["fingerprint"], row["task"], row["example"]): row for row in part} for part in rows]
    assert keyed[0].keys() == keyed[1].keys()
    for key, row in keyed[0].items():
        assert keyed[1][key]["score"] == pytest.approx(row["score"], abs=1e-5)


def test_a_race_and_mixed_batches_exclude_each_other(cli: Cli, text_bed: Path) -> None:
    answer = cli("evaluate", text_bed / "base", "--tasks", text_bed / "tasks", "--race", "--mixed")
    assert answer.code == 2
    assert "one model after the other" in answer.err


# ---------------------------------------------------------------------- compositions


def write_fine_tune(base: Path, out: Path, seed: int) -> Path:
    """A step away from the base, in every tensor."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, out)
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(base / "model.safetensors")
    moved = {name: one + 0.1 * torch.randn(one.shape, generator=generator) for name, one in tensors.items()}
    save_file(moved, out / "model.safetensors", {"format": "pt"})
    return out


@pytest.mark.parametrize("full", [False, True])
def test_twin_merging_answers_all_prompts_together_as_groups_do(
    cli: Cli, world: Path, text_bed: Path, tmp_path: Path, full: bool
) -> None:
    """Adapters, and fine-tunes that change norms, a tied embedding and the embedding of positions as well."""
    names, out, base = ("one", "two"), tmp_path / "twin", world / "base"
    if full:
        skills = [write_fine_tune(base, tmp_path / name, seed) for seed, name in enumerate(names)]
    else:
        skills = [world / "lora" / name for name in names]
    made = cli(
        "compose", "twin_merging", *skills, "--base", base, "--tasks", text_bed / "tasks",
        "--examples", 8, "--out", out, "-q", "--set", "epochs=4", "--set", "rank=0.4",
    )  # fmt: skip
    assert made.code == 0, made.err
    asked = ("generate", out, *[word for p in PROMPTS for word in ("--prompt", p)], "--max-new-tokens", 6)
    answer = cli(*asked, "--show-skills", "--json")
    assert answer.code == 0, answer.err
    shown = json.loads(answer.out)["results"]
    assert all(set(one["skills"]) <= set(names) for one in shown)
    assert [sum(one["skills"].values()) for one in shown] == pytest.approx([1] * len(PROMPTS), abs=1e-5)
    network = open_model(base).load()
    assert isinstance(network, LanguageModel)
    model = load_composition(out).apply(network)
    assert isinstance(model, RoutedModel)
    questions = [Question(str(n), prompt, "ab") for n, prompt in enumerate(PROMPTS)]
    read = read_answers(model, questions)
    assert model._attached is not None
    model._attached.remove()
    model._attached = None
    expected = model.write(PROMPTS, PROMPTS, Decoding(max_new_tokens=6))
    assert [one["output"] for one in shown] == [one.text for one in expected]
    for number, part in read_answers(model, questions).items():
        torch.testing.assert_close(read[number], part, atol=1e-3, rtol=1e-3)
