"""Births become weights: each operator against its formula, and children that come out the same however made."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import evolve_world
import numpy as np
import pytest
import torch

from genepool.errors import InputError
from genepool.evolution.breeding import FounderAdapters, FounderModels, Founders, Offspring
from genepool.evolution.breeding.operators import operator
from genepool.evolution.strategies.base import Birth
from genepool.seeding import torch_generator
from genepool.weights import TensorWeights, Weights, open_weights

SHAPES = {"a.weight": (4, 6), "b.bias": (5,), "c.weight": (7, 3)}


def model(
    seed: int, name: str, dtype: torch.dtype = torch.float32, shapes: dict[str, tuple[int, ...]] = SHAPES
) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    tensors = {key: torch.randn(shape, generator=generator).to(dtype) for key, shape in shapes.items()}
    return TensorWeights({**tensors, "step": torch.tensor([3])}, name)


def founders(dtype: torch.dtype = torch.float32) -> FounderModels:
    return FounderModels(model(0, "base", dtype), {"ann": model(1, "ann", dtype), "bob": model(2, "bob", dtype)})


def flat(weights: Weights) -> torch.Tensor:
    return torch.cat([weights.read(name).reshape(-1).to(torch.float64) for name in SHAPES])


def born(birth: Birth, dtype: torch.dtype = torch.float32) -> Weights:
    return Offspring(founders(dtype), {}.__getitem__).child("0.0", birth)


ANN, BOB, BASE = flat(model(1, "ann")), flat(model(2, "bob")), flat(model(0, "base"))


def test_a_mix_is_the_weighted_sum() -> None:
    child = born(Birth("mix", ("ann", "bob"), {"weights": [0.3, 0.7]}))
    assert torch.allclose(flat(child), 0.3 * ANN + 0.7 * BOB, atol=1e-6)
    assert child.read("step").item() == 3


def test_a_copy_is_the_founder_under_its_own_fingerprint() -> None:
    child = born(Birth("copy", ("ann",)))
    assert child.fingerprint() == model(1, "ann").fingerprint()
    assert torch.equal(flat(child), ANN)


def test_a_mutation_moves_the_share_of_weights_it_should() -> None:
    shapes = {"w": (400, 100)}
    founders = {"ann": model(1, "ann", shapes=shapes)}
    offspring = Offspring(FounderModels(model(0, "base", shapes=shapes), founders), {}.__getitem__)
    child = offspring.child("0.0", Birth("mutate", ("ann",), {"rate": 0.1, "sigma": 0.01}, 5))
    moved = child.read("w") - founders["ann"].read("w")
    changed = moved[moved != 0]
    assert len(changed) / moved.numel() == pytest.approx(0.1, abs=0.01)
    assert changed.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(("split", "weight"), [(0.0, 0.3), (1.0, 0.3), (0.4, 0.8), (0.4, 0.0)])
def test_a_splice_is_slerp_one_way_and_the_other(split: float, weight: float) -> None:
    child = flat(born(Birth("splice", ("ann", "bob"), {"split": split, "weight": weight})))
    angle = math.acos(float(ANN @ BOB / (ANN.norm() * BOB.norm())))

    def slerp(w: float) -> torch.Tensor:
        return (math.sin((1 - w) * angle) * ANN + math.sin(w * angle) * BOB) / math.sin(angle)

    point = math.floor(split * len(ANN))
    expected = torch.cat([slerp(weight)[:point], slerp(1 - weight)[point:]])
    assert torch.allclose(child, expected, atol=1e-6)


def test_a_splice_of_one_model_with_itself_is_that_model() -> None:
    assert torch.allclose(flat(born(Birth("splice", ("ann", "ann"), {"split": 0.5, "weight": 0.2}))), ANN, atol=1e-6)


def test_a_stretch_adds_the_experts_singular_directions() -> None:
    plain = born(Birth("mix", ("ann", "bob"), {"weights": [0.5, 0.5]}))
    birth = Birth("stretch", ("ann", "bob"), {"weights": [0.5, 0.5], "expert": "ann", "rate": 0.1}, 7)
    child = born(birth)
    for name, shape in SHAPES.items():
        added = child.read(name) - plain.read(name)
        if len(shape) == 1:
            assert not added.any()
            continue
        change = model(1, "ann").read(name) - model(0, "base").read(name)
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        draws = torch.rand(min(shape), generator=torch_generator(7, name))
        # In the expert's own singular basis the addition is diagonal, each at most a tenth of the singular value.
        assert torch.allclose(left.T @ added @ right.T, torch.diag(values * draws * 0.1), atol=1e-5)


def test_random_models_have_the_scale_asked_for() -> None:
    shapes = {"w": (300, 100)}
    offspring = Offspring(FounderModels(model(0, "base", shapes=shapes), {}), {}.__getitem__)
    drawn = offspring.child("0.0", Birth("random", (), {"sigma": 0.01}, 3)).read("w")
    assert drawn.std().item() == pytest.approx(0.01, rel=0.03)


# ---------------------------------------------------------------------- children


def pedigree(length: int) -> dict[str, Birth]:
    births = {"0.0": Birth("mix", ("ann", "bob"), {"weights": [0.5, 0.5]})}
    for i in range(1, length):
        births[f"{i}.0"] = Birth("mutate", (f"{i - 1}.0",), {"rate": 0.5, "sigma": 0.1}, i)
    return births


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_child_is_the_same_from_memory_from_the_disk_and_made_again(tmp_path: Path, dtype: torch.dtype) -> None:
    births = pedigree(6)
    last = births["5.0"]
    raised = Offspring(founders(dtype), births.__getitem__, tmp_path / "population")
    for name, birth in births.items():
        child = raised.child(name, birth)
    found = [
        raised.child("5.0", last),
        Offspring(founders(dtype), births.__getitem__, tmp_path / "population").child("5.0", last),
        Offspring(founders(dtype), births.__getitem__).child("5.0", last),
        Offspring(founders(dtype), births.__getitem__, memory=1).child("5.0", last),
    ]
    for one in found:
        assert one.fingerprint() == child.fingerprint()
        assert all(torch.equal(one.read(name), child.read(name)) for name in SHAPES)
        assert one.read("a.weight").dtype == dtype


def test_lines_longer_than_the_stack_are_made_again(tmp_path: Path) -> None:
    births = pedigree(1500)
    offspring = Offspring(founders(), births.__getitem__)
    assert offspring.child("1499.0", births["1499.0"]).fingerprint()


def test_only_the_living_keep_their_files_and_the_dead_come_back_the_same(tmp_path: Path) -> None:
    births = pedigree(4)
    offspring = Offspring(founders(), births.__getitem__, tmp_path / "population")
    children = {name: offspring.child(name, birth) for name, birth in births.items()}
    offspring.keep_only({"2.0"})
    assert [path.name for path in (tmp_path / "population").iterdir()] == ["2.0.safetensors"]
    again = Offspring(founders(), births.__getitem__, tmp_path / "population").child("3.0", births["3.0"])
    assert torch.equal(flat(again), flat(children["3.0"]))


def test_a_torn_file_says_what_to_do(tmp_path: Path) -> None:
    births = pedigree(2)
    Offspring(founders(), births.__getitem__, tmp_path).child("0.0", births["0.0"])
    (tmp_path / "0.0.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"0\.0\.safetensors.*Delete it"):
        Offspring(founders(), births.__getitem__, tmp_path).child("1.0", births["1.0"])


def test_different_births_have_different_fingerprints() -> None:
    births = [
        Birth("mix", ("ann", "bob"), {"weights": [0.5, 0.5]}),
        Birth("mix", ("bob", "ann"), {"weights": [0.5, 0.5]}),
        Birth("mix", ("ann", "bob"), {"weights": [0.4, 0.6]}),
        Birth("mutate", ("ann",), {"rate": 0.5, "sigma": 0.1}, 1),
        Birth("mutate", ("ann",), {"rate": 0.5, "sigma": 0.1}, 2),
    ]
    assert len({born(birth).fingerprint() for birth in births}) == len(births)
    assert born(births[0]).fingerprint() == born(births[0]).fingerprint()
    assert born(births[0]).fingerprint() != born(births[0], torch.bfloat16).fingerprint()


def test_unknown_operators_and_parents_are_named() -> None:
    with pytest.raises(InputError, match="there is no operator 'mixx'.*mix"):
        born(Birth("mixx", ("ann", "bob"), {"weights": [1, 0]}))
    with pytest.raises(InputError, match="called '3.7'"):
        born(Birth("mix", ("ann", "3.7"), {"weights": [1, 0]}))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"a.weight": (4, 6), "b.bias": (5,)}, "lacks the tensor c.weight"),
        ({**SHAPES, "b.bias": (6,)}, r"b.bias of bob"),
    ],
)
def test_parents_of_different_bases_are_refused(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FounderModels(model(0, "base"), {"ann": model(1, "ann"), "bob": model(2, "bob", shapes=shapes)})


# ---------------------------------------------------------------------- adapters


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, dict[str, Weights]]:
    """Two random LoRA adapters of rank 2 and one of rank 3."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = evolve_world.build_world(tmp_path_factory.mktemp("adapters"))
    for name, rank in (("p", 2), ("q", 2), ("r", 3)):
        torch.manual_seed(sum(map(ord, name)))
        tuned = get_peft_model(
            AutoModelForCausalLM.from_pretrained(folder / "base"),
            LoraConfig(r=rank, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
        )
        tuned.save_pretrained(str(folder / name))
    base = open_weights(folder / "base")
    return base, {name: open_weights(f"{folder / 'base'}+{folder / name}", base=base) for name in "pqr"}


def test_adapters_breed_as_factors(adapters: tuple[Weights, dict[str, Weights]]) -> None:
    base, all_of = adapters
    founders = {name: all_of[name] for name in "pq"}
    held = FounderAdapters(base, founders)
    assert held.nbytes < sum(base.info(name).nbytes for name in base.names())
    offspring = Offspring(held, {}.__getitem__)
    whole = offspring.child("0.0", Birth("mix", ("p", "q"), {"weights": [1.0, 0.0]}))
    mixed = offspring.child("0.1", Birth("mix", ("p", "q"), {"weights": [0.25, 0.75]}))
    for name in base.names():
        assert torch.allclose(whole.read(name), founders["p"].read(name), atol=1e-6)
        factors = [one.change.factors(name) for one in founders.values() if name in one.change.names()]  # type: ignore[attr-defined]
        if not factors:
            assert torch.equal(mixed.read(name), base.read(name))
            continue
        left, right = ((0.25 * a + 0.75 * b) for a, b in list(zip(*factors, strict=True))[:2])
        assert torch.allclose(mixed.read(name), base.read(name) + factors[0][2] * left @ right, atol=1e-6)


def test_adapters_fit_together_where_ranks_and_tensors_are_the_same(
    adapters: tuple[Weights, dict[str, Weights]],
) -> None:
    base, founders = adapters
    assert FounderAdapters.fits({name: founders[name] for name in "pq"})
    assert not FounderAdapters.fits(founders)
    assert not FounderAdapters.fits({"p": founders["p"], "base": base})


def held_as(form: str, base: Weights, founders: dict[str, Weights]) -> Founders:
    return FounderModels(base, founders) if form == "models" else FounderAdapters(base, founders)


@pytest.mark.parametrize("form", ["models", "adapters"])
def test_every_operator_makes_finite_children_of_either_form(
    adapters: tuple[Weights, dict[str, Weights]], form: str
) -> None:
    base, all_of = adapters
    held = held_as(form, base, {name: all_of[name] for name in "pq"})
    offspring = Offspring(held, {}.__getitem__)
    births: list[Birth] = [
        Birth("copy", ("p",)),
        Birth("random", (), {"sigma": 0.1}, 1),
        Birth("mix", ("p", "q"), {"weights": [0.5, 0.5]}),
        Birth("mutate", ("p",), {"rate": 0.1, "sigma": 0.1}, 1),
        Birth("climb", ("p",), {"steps": [0.1, -0.2], "seeds": [1, 2]}),
        Birth("splice", ("p", "q"), {"split": 0.5, "weight": 0.5, "sigma": 0.01}, 1),
        Birth("stretch", ("p", "q"), {"weights": [0.5, 0.5], "expert": "p", "rate": 0.1}, 1),
    ]
    check: Callable[[Weights], bool] = lambda w: all(bool(torch.isfinite(w.read(n)).all()) for n in w.names())  # noqa: E731
    children = [offspring.child(f"0.{i}", birth) for i, birth in enumerate(births)]
    assert all(check(child) for child in children)
    prints = [hash(tuple(np.concatenate([c.read(n).numpy().ravel() for n in c.names()]).tolist())) for c in children]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("form", ["models", "adapters"])
def test_a_climb_walks_along_the_noise_of_the_mutants(adapters: tuple[Weights, dict[str, Weights]], form: str) -> None:
    base, all_of = adapters
    held = held_as(form, base, {name: all_of[name] for name in "pq"})
    parent = {name: held.founder("p", name) for name in held.infos}

    def made(birth: Birth) -> dict[str, torch.Tensor]:
        return dict(operator(birth.op)(held, [parent], birth))

    one, two = (made(Birth("mutate", ("p",), {"rate": 1.0, "sigma": 0.01}, seed)) for seed in (7, 8))
    walked = made(Birth("climb", ("p",), {"steps": [0.01, -0.02], "seeds": [7, 8]}))
    for name in held.infos:
        by_hand = parent[name] + (one[name] - parent[name]) - 2 * (two[name] - parent[name])
        assert torch.allclose(walked[name].float(), by_hand.float(), atol=1e-5)


def test_parents_are_not_pushed_out_of_the_only_place_they_are_in() -> None:
    births = {f"0.{i}": Birth("mutate", ("ann",), {"rate": 1.0, "sigma": 0.1}, i) for i in range(3)}
    last = Birth("mix", tuple(births), {"weights": [0.2, 0.3, 0.5]})
    narrow = Offspring(founders(), births.__getitem__, memory=1).child("1.0", last)
    assert torch.equal(flat(narrow), flat(Offspring(founders(), births.__getitem__).child("1.0", last)))


def test_a_base_alone_can_be_bred_from_all_its_float_tensors() -> None:
    alone = FounderModels(model(0, "base"), {"base": model(0, "base")})
    assert set(alone.infos) == set(SHAPES)
    child = Offspring(alone, {}.__getitem__).child("0.0", Birth("mutate", ("base",), {"rate": 1.0, "sigma": 0.1}, 1))
    assert all(not torch.equal(child.read(name), model(0, "base").read(name)) for name in SHAPES)


def test_small_steps_add_up_where_children_are_held_in_float32() -> None:
    """A step far below what bfloat16 can tell apart, taken a thousand times along one direction."""
    base = model(0, "base", torch.bfloat16)
    away = {}
    for held in (None, "F32"):
        births = {"0.0": Birth("copy", ("base",))}
        for i in range(1, 101):
            births[f"{i}.0"] = Birth("climb", (f"{i - 1}.0",), {"steps": [1e-4], "seeds": [7]})
        offspring = Offspring(FounderModels(base, {"base": base}, held=held), births.__getitem__)
        child = offspring.child("100.0", births["100.0"])
        assert child.read("a.weight").dtype == torch.bfloat16
        away[held] = flat(child) - flat(base)
    noise = torch.cat([torch.randn(s, generator=torch_generator(7, n)).reshape(-1) for n, s in SHAPES.items()])
    wanted = 0.01 * noise.double()
    assert (away["F32"] - wanted).norm() < 0.5 * wanted.norm()
    assert (away[None] - wanted).norm() > 0.7 * wanted.norm()


def test_directions_that_do_not_fit_are_computed_again_and_the_others_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from genepool.evolution.breeding import founders as module

    first = module.singular_triplets(torch.randn(4, 6), 4)
    monkeypatch.setattr(module, "SPECTRA", sum(part.nbytes for part in first))
    held, computed = founders(), []

    def counted(matrix: torch.Tensor, count: int) -> object:
        computed.append(matrix.shape)
        return first if matrix.shape == (4, 6) else triplets(matrix, count)

    triplets = module.singular_triplets
    monkeypatch.setattr(module, "singular_triplets", counted)
    for _ in range(3):
        held.spectrum("ann", "a.weight")
        held.spectrum("ann", "c.weight")
    assert computed == [(4, 6), (7, 3), (7, 3), (7, 3)]
