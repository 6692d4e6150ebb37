"""Twin-Merging: the parts are what numpy's SVD says, the router is the authors', and prompts get weights of their own.

What is composed stands wherever a model is named, and answers a batch as it answers each prompt by itself.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from genepool.composition import load_composition
from genepool.composition.kept_fit import HeldOutLooks, KeptFit
from genepool.composition.routing.routed_model import RoutedModel, Routing
from genepool.composition.routing.router import RoutedInputs, Router, RouterFit, train_router
from genepool.composition.routing.twin_parts import ExclusivePart, exclusive_factors, rank_of, shared_part
from genepool.composition.vectors import TaskVectors
from genepool.tasks import Decoding, open_model
from genepool.tasks.answers import Question
from genepool.weights import TensorWeights, open_weights
from genepool.weights.in_memory import ResidentChange

Cli = Callable[..., Any]
NAMES = ("first", "second", "third")


def vectors(*changes: dict[str, torch.Tensor]) -> TaskVectors:
    shapes = {name: torch.zeros_like(values) for change in changes for name, values in change.items()}
    base = TensorWeights(shapes, "base")
    return TaskVectors(base, [ResidentChange(one, base, f"skill{i}") for i, one in enumerate(changes)])


# ---------------------------------------------------------------------- the parts


@given(seed=st.integers(0, 999), share=st.sampled_from([0.2, 0.5, 0.75, 1.0]))
def test_parts_are_those_of_the_definition(seed: int, share: float) -> None:
    """The authors' `svd`: the first int(share * min) triplets of a matrix, vectors untouched; here at least one."""
    generator = torch.Generator().manual_seed(seed)
    tuned = [
        {"w": torch.randn(6, 4, generator=generator), "b": torch.randn(3, generator=generator)},
        {"w": torch.randn(6, 4, generator=generator)},
    ]
    found = vectors(*tuned)
    shared = shared_part(found, 0.3, "shared", "")
    factors = exclusive_factors(found, shared, share)
    common = 0.3 * (tuned[0]["w"] + tuned[1]["w"]).double().numpy()
    assert np.allclose(shared.whole("w"), common, atol=1e-6)
    for number, one in enumerate(tuned):
        left, values, right = np.linalg.svd(one["w"].double().numpy() - common, full_matrices=False)
        kept = max(1, int(share * len(values)))
        expected = (left[:, :kept] * values[:kept]) @ right[:kept]
        part = ExclusivePart(found, shared, number, factors[number], "")
        assert np.allclose(part.whole("w"), expected, atol=1e-5)
        assert (part.factors("w") is None) == (share == 1.0)
        # A vector is no matrix, and a skill that has none lacks the shared one.
        own = one.get("b", torch.zeros(3))
        assert torch.allclose(part.whole("b").flatten(), own - 0.3 * tuned[0]["b"], atol=1e-6)
        if share == 1.0:
            assert torch.allclose(shared.whole("w") + part.whole("w"), one["w"], atol=1e-5)


def test_a_share_of_the_rank_by_hand() -> None:
    assert [rank_of((10, 64), share) for share in (0.01, 0.1, 0.55, 0.99, 1.0)] == [1, 1, 5, 9, None]
    assert rank_of((1, 7), 0.5) is None


# ---------------------------------------------------------------------- the router


def authors_router(width: int, skills: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, 2 * width), nn.BatchNorm1d(2 * width), nn.LeakyReLU(), nn.Dropout(0.5),
        nn.Linear(2 * width, 2 * width), nn.BatchNorm1d(2 * width), nn.LeakyReLU(), nn.Dropout(0.5),
        nn.Linear(2 * width, skills),
    )  # fmt: skip


def test_the_router_is_the_authors() -> None:
    torch.manual_seed(3)
    ours, theirs = Router(5, 3), authors_router(5, 3)
    places = {"hidden.0": 0, "norms.0": 1, "hidden.1": 4, "norms.1": 5, "out": 8}
    state = ours.state_dict()
    theirs.load_state_dict(
        {f"{places[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value for name, value in state.items()}
    )
    inputs = torch.randn(7, 5)
    torch.manual_seed(4)
    trained = ours.train()(inputs)
    torch.manual_seed(4)
    torch.testing.assert_close(trained, theirs.train()(inputs))
    # The running averages moved alike too.
    torch.testing.assert_close(ours.eval()(inputs), theirs.eval()(inputs))


def clusters(count: int) -> RoutedInputs:
    generator = torch.Generator().manual_seed(0)
    skills = torch.arange(3).repeat(count)
    vectors = torch.randn(3, 6, generator=generator)[skills] + 0.1 * torch.randn(3 * count, 6, generator=generator)
    held = list(range(0, 3 * count, 4))
    return RoutedInputs(vectors, skills, [n for n in range(3 * count) if n not in held], held)


HOW = RouterFit(epochs=30, learning_rate=0.01, batch=16, dropout=0.5, seed=0)


def test_a_router_learns_clusters_and_is_the_best_held_out_state() -> None:
    router, record = train_router(clusters(16), 3, HOW, KeptFit(None, {}))
    assert record["right"] == 1.0
    assert record["steps"] == 30 * 3
    best = min(record["held_out"], key=lambda look: look[1])
    assert record["best_step"] == best[0]
    inputs = clusters(16)
    logits = router(inputs.vectors[inputs.held])
    loss = float(nn.functional.cross_entropy(logits, inputs.skills[inputs.held]).detach())
    assert loss == pytest.approx(best[1], rel=1e-5)


@pytest.mark.parametrize("at", [0, 40])
def test_a_router_that_was_stopped_goes_on_to_the_same_bits(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, record = train_router(clusters(8), 3, HOW, KeptFit(tmp_path / "one", {}))
    add = HeldOutLooks.add

    def stopped(self: HeldOutLooks, step: int, loss: float | None) -> bool:
        ended = add(self, step, loss)
        if step == at:
            raise KeyboardInterrupt
        return ended

    monkeypatch.setattr(HeldOutLooks, "add", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_router(clusters(8), 3, HOW, KeptFit(tmp_path / "two", {}))
    monkeypatch.setattr(HeldOutLooks, "add", add)
    resumed, again = train_router(clusters(8), 3, HOW, KeptFit(tmp_path / "two", {}))
    assert again == record
    assert all(torch.equal(one, whole.tensors()[name]) for name, one in resumed.tensors().items())


class Fixed(Router):
    """Gives its inputs back as logits."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors


def test_weights_of_logits_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.2, 0.8], [0.52, 0.48]]))
    torch.testing.assert_close(Routing(Fixed(), "softmax", 0).weights(logits), logits.exp())
    assert Routing(Fixed(), "softmax", 4).weights(logits).tolist() == [[0.25, 0.75], [0.5, 0.5]]
    assert Routing(Fixed(), "top", 4).weights(logits).tolist() == [[0.0, 1.0], [1.0, 0.0]]


# ---------------------------------------------------------------------- through the command


def compose(cli: Cli, bed: Path, out: Path, *options: Any, folder: str = "full", skills: Any = NAMES) -> Any:
    named = [bed / folder / one if isinstance(one, str) else one for one in skills]
    said = {str(option).partition("=")[0] for option in options}
    usual = [word for one in ("rank=0.4", "epochs=8", "batch=9") if one.partition("=")[0] not in said
             for word in ("--set", one)]  # fmt: skip
    return cli(
        "compose", "twin_merging", *named, "--base", bed / "base", "--tasks", bed / "tasks", "--examples", 12,
        *usual, "--out", out, "--json", *options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("twin")


@pytest.fixture
def twin(cli: Cli, small_bed: Path, kept: Path) -> Path:
    """A composition of three fine-tunes of a classifier, made once."""
    out = kept / "out"
    if out.exists():
        return out
    made = compose(cli, small_bed, out)
    assert made.code == 0, made.err
    said = json.loads(made.out)
    assert said["form"] == "composition"
    assert said["record"]["examples"] == {name: {"learn": 9, "held": 3} for name in NAMES}
    assert said["record"]["steps"] == 8 * 3
    return out


def prompts_of(bed: Path, *tasks: str) -> list[str]:
    lines = [line for name in tasks for line in (bed / "tasks" / name / "test.jsonl").read_text().splitlines()]
    return [json.loads(line)["prompt"] for line in lines]


def test_every_prompt_is_answered_by_its_own_mixture(twin: Path, small_bed: Path) -> None:
    """As the definition says, computed from the files alone; a batch is as single prompts are."""
    model = open_model(twin).load()
    assert isinstance(model, RoutedModel)
    prompts = prompts_of(small_bed, "first", "plain")[:15:3]
    weights = model.weights(prompts)
    torch.testing.assert_close(weights.sum(1), torch.ones(5))
    assert len(weights.unique(dim=0)) == 5

    base, *tuned = (load_file(small_bed / at / "model.safetensors") for at in ("base", *(f"full/{n}" for n in NAMES)))
    deltas = [{name: (one[name] - base[name]).double().numpy() for name in base} for one in tuned]
    shared = {name: 0.3 * sum(one[name] for one in deltas) for name in base}
    network = open_model(small_bed / "base").load()

    def exclusive(delta: np.ndarray, common: np.ndarray) -> np.ndarray:
        if delta.ndim < 2:
            return delta - common
        left, values, right = np.linalg.svd((delta - common).reshape(len(delta), -1), full_matrices=False)
        kept = max(1, int(0.4 * len(values)))
        return ((left[:, :kept] * values[:kept]) @ right[:kept]).reshape(delta.shape)

    parts = [{name: exclusive(one[name], shared[name]) for name in base} for one in deltas]
    for row, prompt in zip(weights.tolist(), prompts, strict=True):
        mixed = {}
        for name in base:
            change = shared[name] + sum(w * part[name] for w, part in zip(row, parts, strict=True))
            mixed[name] = base[name] + torch.tensor(change).float()
        network.assign(TensorWeights(mixed, "mixed", config=open_weights(small_bed / "base").config))
        expected = network.class_scores([prompt])
        torch.testing.assert_close(model.class_scores([prompt]), expected, atol=2e-4, rtol=1e-4)
    batch = model.class_scores(prompts)
    alone = torch.cat([open_model(twin).load().class_scores([prompt]) for prompt in prompts])
    torch.testing.assert_close(batch, alone, atol=1e-5, rtol=1e-5)
    hidden = model.hidden_states(prompts)
    torch.testing.assert_close(hidden[1][-1], model.hidden_states([prompts[1]])[0][-1], atol=1e-4, rtol=1e-4)


def test_what_is_composed_stands_wherever_a_model_is_named(cli: Cli, twin: Path, small_bed: Path) -> None:
    tasks = small_bed / "tasks"
    asked = cli("evaluate", twin, f"{twin}#first", f"{twin}#second", "--tasks", tasks, "--json")
    assert asked.code == 0, asked.err
    results = json.loads(asked.out)["results"]
    assert len({row["fingerprint"] for row in results}) == 3
    again = cli("evaluate", twin, "--tasks", tasks, "--json")
    assert json.loads(again.out)["evaluated"] == 0
    assert cli("compare", small_bed / "base", twin, "--tasks", tasks).code == 0
    told = cli("inspect", twin)
    assert told.code == 2
    assert "chooses by input, and no weights do the same. Name a task, as in" in told.err
    assert cli("inspect", f"{twin}#first").code == 0


@pytest.mark.slow
def test_at_full_rank_each_task_is_its_skill(cli: Cli, small_bed: Path, tmp_path: Path) -> None:
    assert compose(cli, small_bed, tmp_path / "out", "--set", "rank=1", "--set", "scale=0.7").code == 0
    for name in NAMES:
        skill = open_weights(small_bed / "full" / name)
        found = open_weights(f"{tmp_path / 'out'}#{name}")
        for tensor in skill.names():
            torch.testing.assert_close(found.read(tensor), skill.read(tensor), atol=1e-5, rtol=1e-5)
    assert not [name for name in load_file(tmp_path / "out" / "router.safetensors") if name.startswith("left/")]


@pytest.mark.slow
def test_the_likeliest_part_alone_answers_prompts_together(
    cli: Cli, small_bed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    options = ("--set", "choice=top", "--set", "dropout=0", "--set", "learning_rate=0.01", "--keep", "--bundle")
    assert compose(cli, small_bed, out, *options).code == 0
    assert len(list((out / "skills").iterdir())) == 3
    model = open_model(out).load()
    prompts = prompts_of(small_bed, *NAMES)
    chosen = model.weights(prompts).argmax(1)
    groups: list[int] = []
    ask = type(model.base).class_scores

    def counted(self: Any, some: list[str], batch_size: int = 128) -> torch.Tensor:
        groups.append(len(some))
        return ask(self, some, batch_size)

    monkeypatch.setattr(type(model.base), "class_scores", counted)
    scores = model.class_scores(prompts)
    assert len(groups) == len(chosen.unique()) <= 3
    for number in chosen.unique():
        expected = open_model(f"{out}#{NAMES[int(number)]}").load().class_scores(prompts)
        torch.testing.assert_close(scores[chosen == number], expected[chosen == number], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_language_model_writes_and_reads_each_prompt_as_if_alone(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    out, bed = tmp_path / "out", tmp_path / "bed"
    for part in ("base", "lora"):
        (bed / part).parent.mkdir(exist_ok=True)
        (bed / part).symlink_to(text_bed / part)
    for name, letters in (("one", "abc"), ("two", "fgh")):
        (bed / "tasks" / name).mkdir(parents=True)
        texts = ["".join(letter) for letter in itertools.product(letters, repeat=3)]
        for split, chosen in (("train", texts[:20]), ("test", texts[20:])):
            rows = [json.dumps({"prompt": f"{text}=", "answer": text[::-1]}) for text in chosen]
            (bed / "tasks" / name / f"{split}.jsonl").write_text("\n".join(rows))
    options = ("--set", "levels=8", "--set", "learning_rate=0.01")
    assert compose(cli, bed, out, *options, folder="lora", skills=("one", "two")).code == 0
    model = open_model(out).load()
    prompts = prompts_of(bed, "one", "two")
    weights = model.weights(prompts)
    assert torch.equal(weights, (weights * 8).round() / 8)
    assert 1 < len(weights.unique(dim=0)) < len(prompts)
    decoding, answers = Decoding(max_new_tokens=4), [one[:3][::-1] for one in prompts]
    written = model.write(prompts, prompts, decoding)
    read = model.loglikelihoods(prompts, answers)
    forced = model.forced_answers(prompts, answers, decoding, True, 128)
    questions = [Question(p, p, a) for p, a in zip(prompts, answers, strict=True)]
    targets = {}
    for batch in model.answer_batches(questions):
        logs = model.answer_logits(batch).log_softmax(-1)[torch.arange(len(batch.targets)), batch.targets]
        for at, number in enumerate(batch.numbers):
            targets[number] = float(logs[batch.owners == at].sum().detach())
    for number in (0, 5, 11):
        single = [prompts[number]]
        assert model.write(single, single, decoding)[0].text == written[number].text
        logprob = model.loglikelihoods(single, [answers[number]])[0].logprob
        for value in (read[number].logprob, forced[number].logprob, targets[number]):
            assert value == pytest.approx(logprob, abs=1e-3)
    told = cli("generate", out, "--prompt", prompts[0], "--prompt", prompts[-1], "--max-new-tokens", 4)
    assert told.code == 0, told.err
    assert told.out.splitlines() == [written[0].text, written[-1].text]


@pytest.mark.slow
def test_a_stopped_command_goes_on_to_the_same_folder(
    cli: Cli, small_bed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twin: Path
) -> None:
    add = HeldOutLooks.add

    def stopped(self: HeldOutLooks, step: int, loss: float | None) -> bool:
        add(self, step, loss)
        if step == 12:
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(HeldOutLooks, "add", stopped)
    assert compose(cli, small_bed, tmp_path / "out").code == 130
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(HeldOutLooks, "add", add)
    again = compose(cli, small_bed, tmp_path / "out")
    assert "going on after step 12" in again.err
    for name in ("router.safetensors", "composition.json"):
        assert (tmp_path / "out" / name).read_bytes() == (twin / name).read_bytes()


def test_a_damaged_or_altered_folder_is_refused(cli: Cli, twin: Path, small_bed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(twin, out)
    tensors = load_file(twin / "router.safetensors")
    factor = next(name for name in tensors if name.startswith("left/1/"))
    for wrong, message in (
        ({factor: None}, f"{factor}: the tensor is missing"),
        ({factor: tensors[factor][:-1].contiguous()}, f"{factor}: has shape"),
        ({"router/norms.0.running_var": tensors["router/norms.0.running_var"] * float("nan")}, "no finite numbers"),
        ({"router/out.bias": torch.zeros(7)}, "router/out.bias: has shape [7], expected [3]"),
        ({"router/hidden.0.weight": torch.zeros(1, 10**6)}, "has shape [1, 1000000], expected [2000000, 1000000]"),
        ({"router/norms.0.running_var": -tensors["router/norms.0.running_var"] - 1}, "its router gives NaN"),
        ({"router/out.bias": torch.full((3,), 3e38), "router/out.weight": torch.full((3, 16), 3e38)}, "gives NaN or"),
        (
            {f"router/{name}": tensor.detach() + 1 for name, tensor in Router(5, 3).tensors().items()},
            "its router reads 5 numbers, and hidden states have 8. Compose it again",
        ),
    ):
        kept = {name: value for name, value in {**tensors, **wrong}.items() if value is not None}
        save_file(kept, out / "router.safetensors", {"format": "pt"})
        answer = cli("evaluate", out, "--tasks", small_bed / "tasks")
        assert answer.code == 2
        assert message in answer.err
    assert load_composition(twin).fingerprint == load_composition(twin).fingerprint


def test_every_skill_needs_a_task_of_its_name(cli: Cli, small_bed: Path, tmp_path: Path) -> None:
    answer = compose(cli, small_bed, tmp_path / "out", "--task", "first", "--task", "second")
    assert answer.code == 2
    assert "--task: no task that is chosen is called third, so the router knows no input of this skill" in answer.err
    assert not list(tmp_path.iterdir())
