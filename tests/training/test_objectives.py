"""Objectives: transformers' own loss, the closed forms of entropy and divergence, the registry."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genepool.errors import InputError
from genepool.tasks import Example, LanguageModel, open_model
from genepool.training import (
    EncodedExamples,
    TargetObjective,
    descend,
    encode_examples,
    find_objective,
    objectives,
    target_objective,
)

EXAMPLES = [Example(str(n), prompt, (answer,)) for n, (prompt, answer) in enumerate([("fab=", "a"), ("fbcd=", "bc")])]


def loaded(folder: Path) -> tuple[LanguageModel, EncodedExamples]:
    model = open_model(folder).load()
    assert isinstance(model, LanguageModel)
    return model, encode_examples(model, EXAMPLES)


def test_likelihood_is_transformers_own_loss(small_world: Path) -> None:
    model, encoded = loaded(small_world / "base")
    for batch in encoded.batches:
        losses = target_objective("likelihood").losses(model, batch)
        labels = torch.full_like(batch.inputs["input_ids"], -100)
        labels[batch.rows, batch.places + 1] = batch.targets
        assert float(losses.mean()) == pytest.approx(
            float(model.model(input_ids=batch.inputs["input_ids"], labels=labels).loss), rel=1e-5
        )


def test_entropy_is_between_none_and_that_of_a_uniform_choice(small_world: Path) -> None:
    model, encoded = loaded(small_world / "base")
    for batch in encoded.batches:
        shares = model.answer_logits(batch).softmax(-1)
        losses = target_objective("entropy").losses(model, batch)
        expected = torch.distributions.Categorical(probs=shares).entropy()
        assert torch.allclose(losses, expected, atol=1e-5)
        assert bool((losses >= 0).all())
        assert float(losses.max()) <= float(torch.tensor(model.vocabulary_size).log())


def test_distance_is_none_to_itself_and_torchs_divergence_to_another(small_world: Path) -> None:
    model, encoded = loaded(small_world / "base")
    teacher, _ = loaded(small_world / "other")
    for batch in encoded.batches:
        assert float(target_objective("distance").losses(model, batch, model).abs().max()) < 1e-5
        losses = target_objective("distance").losses(model, batch, teacher)
        wanted, own = (one.answer_logits(batch).log_softmax(-1) for one in (teacher, model))
        expected = torch.nn.functional.kl_div(own, wanted, reduction="none", log_target=True).sum(-1)
        assert torch.allclose(losses, expected, atol=1e-5)


@pytest.mark.parametrize("name", sorted(name for name, one in objectives().items() if issubclass(one, TargetObjective)))
def test_every_objective_says_where_it_comes_from_and_falls_along_its_gradient(name: str, small_world: Path) -> None:
    objective = target_objective(name)
    assert objective.source
    assert objective.when
    model, encoded = loaded(small_world / "base")
    teacher = loaded(small_world / "other")[0] if objective.needs_teacher else None
    # Compared with what it is itself, there would be nothing to learn.
    began = teacher or loaded(small_world / "other")[0] if objective.needs_reference else None

    def loss() -> torch.Tensor:
        return torch.cat([objective.losses(model, batch, teacher, began) for batch in encoded.batches]).mean()

    weight = model.model.get_output_embeddings().weight.requires_grad_(True)
    before = loss()
    before.backward()
    with torch.no_grad():
        weight -= 0.1 * weight.grad / weight.grad.norm()
        assert float(loss()) < float(before)


def test_descending_adds_the_gradient_of_the_mean_over_examples(small_world: Path) -> None:
    model, encoded = loaded(small_world / "base")
    weight = model.model.get_output_embeddings().weight.requires_grad_(True)
    objective = target_objective("likelihood")
    total = descend(objective, model, encoded)
    gradient, weight.grad = weight.grad.clone(), None
    rows = [batch.means(objective.losses(model, batch)) for batch in encoded.batches]
    expected = torch.cat(rows).mean()
    expected.backward()
    assert total == pytest.approx(float(expected), rel=1e-6)
    assert torch.allclose(gradient, weight.grad, atol=1e-6)


def test_an_unknown_objective_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no objective 'likelyhood'.*likelihood"):
        find_objective("likelyhood")
