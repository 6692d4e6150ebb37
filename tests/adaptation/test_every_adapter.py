"""What holds for every adapter, whoever wrote it: same seed same bits, states that go on, a reset that is the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_series import write_series
from made_streams import rows, write_model, write_stream
from safetensors.torch import load_file, save_file

import genepool as gp
from genepool.adaptation import Adaptation, AdapterState, StreamStep, all_adapters, described_adapter, load_stream
from genepool.errors import InputError
from genepool.tasks import open_model

# Language models have tests of their own.
NAMES = sorted(name for name, kind in all_adapters().items() if "a language model" not in kind.needs)
# Options under which a small untrained model learns within a few batches.
LIVELY: dict[str, dict[str, Any]] = {
    "eata": {"margin": 1.0, "redundancy": 1.0},
    "sar": {"margin": 1.0, "floor": 0.0},
    "cotta": {"augmentations": 2},
    "label_shift": {"steps": 20},
    "camel": {"steps": 20},
    "maml": {"steps": 20},
    "refit": {"steps": 3},
    "heterogeneous": {"steps": 10, "shots": 1, "wait": 2},
}


def _of_series(name: str | None) -> bool:
    return name is not None and all_adapters()[name].asks == {"series"}


@pytest.fixture
def base(request: pytest.FixtureRequest, base: Path, forecaster: Path) -> Path:
    """The model that suits the adapter of a test."""
    return forecaster if _of_series(_adapter_of(request)) else base


@pytest.fixture
def stream(request: pytest.FixtureRequest, stream: Path, series: Path) -> Path:
    """The stream that suits the adapter of a test."""
    return series if _of_series(_adapter_of(request)) else stream


def _adapter_of(request: pytest.FixtureRequest) -> str | None:
    call = getattr(request.node, "callspec", None)
    return None if call is None else call.params.get("name")


def _run(base: Path, stream: Path, name: str, **said: Any) -> Adaptation:
    late = 1 if "late labels" in all_adapters()[name].needs and not _of_series(name) else None
    return Adaptation(base, stream, name, options=LIVELY.get(name), labels_late=late, **said)


def _told(steps: list[StreamStep]) -> list[Any]:
    return [(one.number, one.keys, one.predicted, one.probabilities.tolist(), one.frozen) for one in steps]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_repeatable_and_goes_on_from_a_state(base: Path, stream: Path, tmp_path: Path, name: str) -> None:
    whole = list(_run(base, stream, name))
    assert _told(whole) == _told(list(_run(base, stream, name)))
    first = _run(base, stream, name)
    begun = [next(first) for _ in range(5)]
    first.save(tmp_path / "state")
    second = _run(base, stream, name).restore(tmp_path / "state")
    assert second.done == 5
    assert _told(begun) + _told(list(second)) == _told(whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_reset_is_the_start(base: Path, stream: Path, name: str) -> None:
    run = _run(base, stream, name)
    start = run.adapter.state()
    for _ in range(4):
        next(run)
    run.update()
    if run.adapter.trains not in ("nothing", "added"):
        assert not _alike(start, run.adapter.state())
    run.adapter.reset()
    assert _alike(start, run.adapter.state())


def _alike(one: AdapterState, other: AdapterState) -> bool:
    if one.tensors.keys() != other.tensors.keys() or one.values != other.values:
        return False
    return all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


@pytest.mark.parametrize("name", NAMES)
def test_only_what_is_declared_changes(base: Path, stream: Path, name: str) -> None:
    run = _run(base, stream, name)
    before = {key: one.detach().clone() for key, one in run.model.network.named_parameters()}
    for step in run:
        assert torch.isfinite(step.probabilities).all()
        if not _of_series(name):
            torch.testing.assert_close(step.probabilities.sum(-1), torch.ones(len(step.keys)))
    moved = {key for key, one in run.model.network.named_parameters() if not torch.equal(one, before[key])}
    trains = run.adapter.trains
    assert moved <= set(run.model.names("norm" if trains == "norm" else "all"))
    assert bool(moved) == (trains in ("norm", "all"))
    # The frozen model beside it is the one that was loaded.
    assert all(torch.equal(one, before[key]) for key, one in run._frozen_model.network.named_parameters())


@pytest.mark.parametrize("name", NAMES)
def test_labels_and_domains_are_hidden(base: Path, tmp_path: Path, name: str) -> None:
    """Other labels and domains in the same order: the same predictions, bit for bit."""
    if "late labels" in all_adapters()[name].needs:
        pytest.skip("it is told the labels")
    lines = rows(24)
    plain = [{**row, "answer": "0", "domain": "x"} for row in lines]
    runs = [
        _run(base, write_stream(tmp_path / which, part, order="file"), name)
        for which, part in (("a", lines), ("b", plain))
    ]
    first, second = (torch.cat([step.probabilities for step in run]) for run in runs)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", sorted(all_adapters()))
def test_an_adapter_is_described(name: str) -> None:
    kind = all_adapters()[name]
    told = described_adapter(kind)
    assert told["name"] == name == kind.__module__.rpartition(".")[2]
    assert all(told[key] for key in ("source", "when", "order"))
    assert kind.order.endswith(".")
    assert not kind.when.endswith(".")
    assert all(one["description"] for one in told["parameters"])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_lacking_is_named(base: Path, tmp_path: Path, name: str) -> None:
    needs = all_adapters()[name].needs
    if _of_series(name):
        with pytest.raises(InputError, match=f"stream.jsonl: is no series, and {name} adapts forecasters of series"):
            Adaptation(write_model(tmp_path / "classifier"), write_stream(tmp_path / "s"), name)
        if "source examples" in needs:
            with pytest.raises(InputError, match=f"no source examples, which {name} needs"):
                _run(base, write_series(tmp_path / "bare", source=False), name)
        return
    bare = write_stream(tmp_path / "bare", rows(16), source=False)
    if "source examples" in needs:
        with pytest.raises(InputError, match=f"no source examples, which {name} needs"):
            _run(base, bare, name)
    single = write_stream(tmp_path / "single", rows(16), batch=1)
    if "several examples" in needs:
        with pytest.raises(InputError, match="batches of one example"):
            _run(base, single, name)
    else:
        assert len(next(_run(base, single, name)).keys) == 1
    if "late labels" in needs:
        with pytest.raises(InputError, match="--labels-late"):
            Adaptation(base, bare, name)


def test_what_is_issued_is_not_changed_by_what_comes_later(base: Path, stream: Path) -> None:
    """The first batch is predicted by the model as it was trained."""
    run = Adaptation(base, stream, "tent", options={"rate": 1.0})
    step = next(run)
    assert step.predicted == step.frozen
    assert [run.done, run.update() is not None, run.done, run.update()] == [0, True, 1, None]


def test_the_state_of_another_run_is_refused(base: Path, stream: Path, tmp_path: Path) -> None:
    run = Adaptation(base, stream, "tent", rounds=1)
    next(run)
    run.save(tmp_path / "state")
    other = write_stream(tmp_path / "other", rows(24, seed=5))
    model = write_model(tmp_path / "model", seed=3)
    for said, key in (
        ((model, stream, "tent"), "model"),
        ((base, other, "tent"), "stream"),
        ((base, stream, "diversity"), "adapter"),
    ):
        with pytest.raises(InputError, match=f"state of another run.*{key} was"):
            Adaptation(*said, rounds=1).restore(tmp_path / "state")
    with pytest.raises(InputError, match="holds no state"):
        run.restore(tmp_path / "nowhere")
    with pytest.raises(InputError, match="something else"):
        run.save(stream)


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
def test_a_damaged_state_is_refused(base: Path, stream: Path, tmp_path: Path, file: str) -> None:
    run = Adaptation(base, stream, "eata", rounds=1)
    next(run)
    run.save(tmp_path / "state")
    path = tmp_path / "state" / file
    whole = path.read_bytes()
    for cut in (0, 5, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError):
            run.restore(tmp_path / "state")
    path.write_bytes(whole.replace(b'"position": 8', b'"position": 9'))
    if file == "state.json":
        with pytest.raises(InputError, match="is damaged"):
            run.restore(tmp_path / "state")


@pytest.mark.parametrize("name", NAMES)
def test_a_state_whose_tensors_have_other_shapes_is_refused(
    base: Path, stream: Path, tmp_path: Path, name: str
) -> None:
    """One entry would be spread over all of them, and the run would go on with nonsense."""
    run = _run(base, stream, name)
    for _ in range(4):
        next(run)
    run.save(tmp_path / "state")
    path = tmp_path / "state" / "state.safetensors"
    whole = load_file(path)
    kinds = {one.rpartition("|")[2] if "|" in one else one.partition(" ")[0]: one for one in whole}
    for changed in kinds.values():
        save_file({**whole, changed: torch.zeros(1, 1, 1, 1, 1)}, path)
        with pytest.raises(InputError, match=r"is damaged .*has the shape \[1, 1, 1, 1, 1\]"):
            run.restore(tmp_path / "state")


def test_a_state_that_holds_other_things_is_refused(base: Path, stream: Path, tmp_path: Path) -> None:
    run = Adaptation(base, stream, "diversity", rounds=1)
    next(run)
    run.save(tmp_path / "state")
    path = tmp_path / "state" / "state.safetensors"
    whole = load_file(path)
    name = min(whole)
    for changed, said in (
        ({**whole, "zzz": torch.zeros(1)}, "zzz is nothing that the adapter holds"),
        ({**whole, name: whole[name].long()}, f"{name} is torch.int64, expected torch.float32"),
    ):
        save_file(changed, path)
        with pytest.raises(InputError, match=f"is damaged .*{said}"):
            run.restore(tmp_path / "state")


def test_a_model_in_memory_no_longer_passes_for_what_it_was(base: Path, stream: Path) -> None:
    model = open_model(base).load()
    run = gp.adapt(model, stream, "tent", rounds=1)
    list(run)
    with pytest.raises(InputError):
        _ = model.fingerprint


def test_gp_adapt_goes_on_from_a_state_and_gives_a_skill(base: Path, stream: Path, tmp_path: Path) -> None:
    run = gp.adapt(base, stream, adapter="diversity", rounds=1)
    for step, _ in zip(run, range(3), strict=False):
        assert len(step.predicted) == len(step.keys)
    run.save(tmp_path / "state")
    again = gp.adapt(base, stream, adapter="diversity", rounds=1, state=tmp_path / "state")
    list(again)
    skill = again.skill()
    assert skill is not None
    assert all("norm" in name for name in skill.names())
    assert gp.adapt(base, stream, adapter="lame", rounds=1).skill() is None


def test_late_labels_come_late(base: Path, stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Adaptation(base, stream, "frozen", labels_late=2, rounds=1)
    told: list[tuple[int, list[Any]]] = []
    learn = run.adapter.update

    def seen(batch: Any, late: Any) -> Any:
        told.append((batch.number, [(one.batch.number, one.batch.keys, one.targets.tolist()) for one in late]))
        return learn(batch, late)

    monkeypatch.setattr(run.adapter, "update", seen)
    steps = list(run)
    assert [late for _, late in told[:2]] == [[], []]
    for number, late in told[2:]:
        before = steps[number - 2]
        assert late == [(number - 2, before.keys, [int(one or -1) for one in before.answers])]


def test_classes_that_the_model_lacks_are_refused_or_marked(base: Path, tmp_path: Path) -> None:
    lines = rows(16)
    lines[3]["answer"] = "cat"
    with pytest.raises(InputError, match="the answer 'cat' is none of the 10 classes"):
        Adaptation(base, write_stream(tmp_path / "a", lines), "tent")
    lines[3]["known"] = False
    run = Adaptation(base, write_stream(tmp_path / "b", lines, order="file"), "tent", rounds=1)
    step = next(run)
    assert step.scores(step.predicted)[3] is None
    assert load_stream(tmp_path / "b").examples[3].known is False


def test_inputs_of_another_kind_are_refused(base: Path, tmp_path: Path) -> None:
    lines = [{**row, "input": [0.5] * 9} for row in rows(8)]
    with pytest.raises(InputError, match=r"shape \[9\], expected \[64\]"):
        Adaptation(base, write_stream(tmp_path / "a", lines, source=False), "tent")
    prompts = [{"id": row["id"], "prompt": "not an image"} for row in rows(8)]
    with pytest.raises(InputError, match="expected an image"):
        Adaptation(base, write_stream(tmp_path / "b", prompts, source=False), "tent")


def test_prompts_and_numbers_say_the_same(base: Path, tmp_path: Path) -> None:
    """A digit as a prompt of whole numbers and as an input: the same predictions."""
    lines = rows(16)
    whole = [[round(16 * value) for value in row["input"]] for row in lines]
    numbers = [{**row, "input": [value / 16 for value in own]} for row, own in zip(lines, whole, strict=True)]
    prompts = [
        {**{key: value for key, value in row.items() if key != "input"}, "prompt": " ".join(map(str, own))}
        for row, own in zip(lines, whole, strict=True)
    ]
    runs = [
        Adaptation(base, write_stream(tmp_path / name, part, source=False), "tent", rounds=1)
        for name, part in (("a", numbers), ("b", prompts))
    ]
    first, second = (torch.cat([step.probabilities for step in run]) for run in runs)
    assert torch.equal(first, second)
