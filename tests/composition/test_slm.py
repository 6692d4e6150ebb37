"""SLM: keys by hand, shares of the nearest, earlier tasks' adapters that stand still, and the answer of the formula."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import policy_world
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from genepool.tasks import open_model
from genepool.tasks.models.policy.network import PolicyNetwork, PolicyShape
from genepool.training.retrieval import GroupedKeys, means_of_clusters, orthogonal_keys

pytest.importorskip("gymnasium")
Cli = Callable[..., Any]
SEEN = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
TEXTS = [" ".join(map(str, row)) for row in SEEN.tolist()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_world.build(tmp_path_factory.mktemp("policies"))


@pytest.fixture
def composed(cli: Cli, world: Path, tmp_path: Path) -> Callable[..., Any]:
    def call(out: str, *, skills: tuple[str, ...] = policy_world.SKILLS, **options: Any) -> Any:
        settings = {"steps": 4, "every": 2, "batch": 16, "learning_rate": 0.05, "deltas": 3, "rank": 2, **options}
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        tasks = [word for name in skills for word in ("--task", name)]
        return cli(
            "compose", "slm", *(world / "lora" / name for name in skills), "--base", world / "base", "--tasks",
            world / "tasks", *tasks, "--examples", 4, "--out", tmp_path / out, "-q", *words,
        )  # fmt: skip

    return call


def cosine(one: list[float], other: list[float]) -> float:
    lengths = sum(a * a for a in one) * sum(b * b for b in other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths**0.5


def test_a_cosine_is_the_mean_over_the_groups() -> None:
    state, key = [1.0, 2.0, -1.0, 3.0, 0.5], [0.5, 1.0, 2.0, 1.0, 1.0]
    found = GroupedKeys(torch.tensor([key]), 2, 1).cosines(torch.tensor([state]))
    # Five numbers in two groups: three and two.
    wanted = (cosine(state[:3], key[:3]) + cosine(state[3:], key[3:])) / 2
    assert float(found) == pytest.approx(wanted, abs=1e-6)
    # No more groups than numbers.
    assert float(GroupedKeys(torch.tensor([key]), 9, 1).cosines(torch.tensor([state]))) == pytest.approx(
        3 / 5, abs=1e-6
    )


def test_the_nearest_keys_share_by_their_cosines() -> None:
    keys = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
    pool = GroupedKeys(keys, 1, 2)
    found = pool.weights(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    assert found[0].tolist() == pytest.approx([1 / 1.6, 0.6 / 1.6, 0, 0])
    assert found[1].tolist() == pytest.approx([0, 0.8 / 1.8, 1 / 1.8, 0])
    # What is near to nothing has equal shares of the least far ones.
    assert GroupedKeys(keys[:2], 1, 2).weights(torch.tensor([[-1.0, -1.0]]))[0].tolist() == [0.5, 0.5]


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_a_prompt_retrieves_whatever_its_neighbours_are(seed: int, chosen: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys, states = torch.randn(5, 7, generator=generator), torch.randn(6, 7, generator=generator)
    pool = GroupedKeys(keys, 3, chosen)
    together = pool.weights(states)
    assert torch.allclose(together, torch.cat([pool.weights(one[None]) for one in states]), atol=1e-6)
    assert torch.allclose(together.sum(1), torch.ones(6), atol=1e-5)
    assert ((together > 0).sum(1) <= chosen).all()


def test_clusters_that_lie_apart_are_found() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    near = 0.1 * torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    found = means_of_clusters(centres.repeat(10, 1) + near, 3)
    assert torch.cdist(found, centres).min(0).values.max() < 0.2
    # As many clusters as states, and states that are alike.
    assert means_of_clusters(torch.ones(3, 2), 3).tolist() == [[1, 1]] * 3


def test_drawn_keys_are_at_right_angles_in_every_group() -> None:
    keys = orthogonal_keys(3, 8, 2, 0, 1)
    for part in torch.tensor_split(keys, 2, -1):
        assert torch.allclose(part @ part.T, torch.eye(3), atol=1e-5)
    assert not torch.equal(keys, orthogonal_keys(3, 8, 2, 0, 2))
    # More keys than a part has numbers begin a new set.
    assert orthogonal_keys(5, 4, 2, 0, 0).shape == (5, 4)


@pytest.mark.parametrize("keys", ["means", "orthogonal"])
def test_the_answer_is_that_of_the_retrieved_sum(composed: Any, world: Path, tmp_path: Path, keys: str) -> None:
    answer = composed("out", keys=keys, chosen=2, groups=2)
    assert answer.code == 0, answer.err
    tensors = load_file(tmp_path / "out" / "router.safetensors")
    assert len(tensors["keys"]) == 6
    model = open_model(tmp_path / "out").load()
    states = open_model(world / "base").load().embeddings(TEXTS)
    weights = GroupedKeys(tensors["keys"], 2, 2).weights(states)
    torch.testing.assert_close(model.weights(TEXTS), weights, atol=1e-5, rtol=1e-4)
    plain = load_file(world / "base" / "model.safetensors")
    network = PolicyNetwork(PolicyShape.of(json.loads((world / "base" / "config.json").read_text()), ""))
    rows = []
    for at, row in enumerate(weights):
        moved = dict(plain)
        for name in plain:
            if f"up/{name}" in tensors:
                products = torch.einsum("kro,kri->koi", tensors[f"up/{name}"], tensors[f"down/{name}"])
                moved[name] = plain[name] + torch.einsum("k,koi->oi", row, products)
        network.load_state_dict(moved)
        with torch.inference_mode():
            rows.append(network(torch.from_numpy(SEEN[at : at + 1])).log_softmax(-1))
    torch.testing.assert_close(model.class_scores(TEXTS), torch.cat(rows), atol=1e-5, rtol=1e-4)


def test_adapters_of_earlier_tasks_stand_still(composed: Any, tmp_path: Path) -> None:
    first, *_ = policy_world.SKILLS
    assert composed("one", skills=(first,)).code == 0
    assert composed("both").code == 0
    one, both = (load_file(tmp_path / name / "router.safetensors") for name in ("one", "both"))
    assert set(one) == set(both)
    for name, tensor in one.items():
        assert torch.equal(both[name][: len(tensor)], tensor), name
    moved = [name for name in one if name.startswith("up/") and both[name][3:].abs().max() > 0]
    assert moved


def test_what_cannot_work_is_refused(cli: Cli, composed: Any, world: Path, tmp_path: Path) -> None:
    answer = composed("out", deltas=500)
    assert answer.code == 2
    assert "fewer than it has adapters (500)" in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert "groups" in composed("out", groups=0).err
    assert composed("out").code == 0
    file = tmp_path / "out" / "router.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "keys": tensors["keys"][:5].contiguous()}, file)
    answer = cli("evaluate", tmp_path / "out", "--tasks", world / "tasks")
    assert answer.code == 2
    assert "keys" in answer.err
