"""What a child learns for itself before it is judged: a few steps of gradient descent on the tasks' training examples.

What is trained is what is bred: whole tensors, or the factors of adapters. Learning belongs to a child's birth and the
study's seed, so a child that is made again has learned the same, and children of equal births are one model. Uses the
founders and a model in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from genepool.checked import is_number
from genepool.errors import InputError
from genepool.evolution.breeding.founders import Founders
from genepool.seeding import numpy_generator
from genepool.tasks import Example, LanguageModel, Model, Task, open_model
from genepool.tasks.answers import AnswerBatch
from genepool.tasks.metrics import find_metric
from genepool.tasks.models import check_kind, load_as
from genepool.threads import torch_threads
from genepool.training import Diverged, Optimisation, Optimiser, encode_examples, fit, target_objective

if TYPE_CHECKING:
    import torch

    from genepool.evolution.breeding.learning_settings import Learning
    from genepool.training.fit import Step

    Tensors = Mapping[str, torch.Tensor]
    Lessons = list[tuple[Task, Sequence[Example], float]]

# What an error names as the one that needs a causal language model.
_NEEDS = "learning (the study's `learn`)"


class Learner:
    """Trains children by AdamW, without dropout or weight decay, gradients clipped to norm 1.

    Args:
        founders: the founders, whose tensors are trained.
        tasks: the study's, with training examples.
        weights: of the tasks; 1 where none is given.
        settings: how long and how fast.
        seed: decides which examples a child learns from.
        threads: torch's.
        compute: what the model computes in.
        device: torch's name of the device it computes on.

    Attributes:
        inherit: whether a child's own children get what it learned.
        model: what children are put into; built when first needed, where nobody lends one.

    Raises:
        InputError: a task has no training examples, or none that a model could be taught by; or the models are no
            causal language models.
    """

    def __init__(
        self,
        founders: Founders,
        tasks: Sequence[Task],
        weights: Mapping[str, float],
        settings: Learning,
        *,
        seed: int,
        threads: int,
        compute: str,
        device: str = "cpu",
    ) -> None:
        self._founders, self._settings, self._seed, self._threads = founders, settings, seed, threads
        self._compute, self._device, self.inherit = compute, device, settings.inherit
        self.model: LanguageModel | None = None
        check_kind(LanguageModel, open_model(founders.base), _NEEDS)
        self._objective = target_objective("likelihood")
        self._lessons: Lessons = []
        # Of each, the place of its task among the study's: one whose weight is 0 is not learned.
        self._places: list[int] = []
        self._count = len(tasks)
        for place, task in enumerate(tasks):
            examples = task.examples("train")
            if task.asker is not None or not find_metric(task.settings.metric).answers_are_texts or not examples:
                why = (
                    "has no texts as answers, so nobody can be taught by it" if examples else "has nothing to train on"
                )
                raise InputError(f"task '{task.name}' {why}", where="study:learn", fix="Leave `learn` or the task out")
            if weight := weights.get(task.name, 1.0):
                self._lessons.append((task, examples, weight))
                self._places.append(place)

    def use(self, model: Model) -> None:
        """Lends a model of the founders' architecture, so that none has to be built."""
        self.model = load_as(LanguageModel, open_model(model), _NEEDS)

    def digest(self) -> str:
        """SHA-256, hex, of everything that decides what a child learns."""
        parts = [self._settings.model_dump_json(), str(self._seed), self._compute]
        # Other devices round otherwise.
        parts += [] if self._device == "cpu" else [self._device]
        for task, examples, weight in self._lessons:
            parts += [task.name, task.asking, repr(weight), *(example.key for example in examples)]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()

    def teach(self, birth: str, tensors: Tensors, own: object = None) -> dict[str, torch.Tensor]:
        """What a child's tensors are after learning; those given stay as they are.

        Args:
            birth: digest of its birth, which decides the examples it learns from.
            tensors: what it was born with.
            own: settings of this child alone, as its birth says them: its learning rate, and under `mix` how much
                each task counts beside the study's weights; None where all children learn alike.

        Raises:
            InputError: such settings cannot be, or what was learned holds NaN or infinity.
        """
        import torch

        if self.model is None:
            # Any founder has the architecture; without one everything began at random, in the base's.
            like = next(iter(self._founders.models.values()), self._founders.base)
            self.model = load_as(LanguageModel, open_model(like), _NEEDS, device=self._device, dtype=self._compute)
        # Learned in float32 whatever children are stored as: small steps would be lost in bfloat16.
        latent = {key: torch.nn.Parameter(value.to(torch.float32, copy=True)) for key, value in tensors.items()}
        rate, lessons = self._own(own)
        wanted = Optimisation(self._settings.steps, rate, shape="constant", fused=False)
        with torch_threads(self._threads):
            self.model.assign(self._founders.express(latent, birth, birth))
            with ExitStack() as stack:
                parameters = stack.enter_context(self.model.changing(self._founders.moving()))
                stack.enter_context(torch.enable_grad())
                for key, parameter in parameters.items():
                    hand_on = partial(self._hand_on, key, latent)
                    hook = parameter.register_post_accumulate_grad_hook(hand_on)  # type: ignore[no-untyped-call]
                    stack.callback(hook.remove)
                model = self.model

                def gradients(step: int) -> float:
                    total = 0.0
                    for weight, batch in self._batches(birth, step, lessons):
                        loss = weight * batch.means(self._objective.losses(model, batch)).mean()
                        loss.backward()  # type: ignore[no-untyped-call]
                        total += float(loss.detach())
                    return total

                def express(_: Step) -> None:
                    with torch.no_grad():
                        child = self._founders.express(latent, birth, birth)
                        for key, parameter in parameters.items():
                            parameter.copy_(child.read(key))

                try:
                    fit(Optimiser(latent, wanted), gradients, express)
                except Diverged as error:
                    raise InputError(
                        f"the child would hold NaN or infinity after learning ({error})",
                        fix=f"Lower {'`learn.rate`' if own is None else 'the learning rates'}",
                    ) from None
        return {key: value.detach().to(tensors[key].dtype) for key, value in latent.items()}

    def _hand_on(self, key: str, latent: Mapping[str, torch.nn.Parameter], parameter: Any) -> None:
        """Turns a weight's gradient into those of the tensors it is made of, and lets go of it at once."""
        for name, gradient in self._founders.pull_back(key, parameter.grad.float().cpu(), latent).items():
            known = latent[name].grad
            latent[name].grad = gradient if known is None else known + gradient
        parameter.grad = None

    def _own(self, own: object) -> tuple[float, Lessons]:
        """The learning rate of a child, and its lessons with their weights; a record may be a stranger's."""
        if own is None:
            return self._settings.rate, self._lessons
        rate, mix = (own.get("rate"), own.get("mix")) if isinstance(own, Mapping) else (None, None)
        factors = [1.0] * self._count if mix is None else mix
        fits = isinstance(factors, list | tuple) and len(factors) == self._count
        if not is_number(rate, 0, 1e6) or not fits or not all(is_number(one, 1e-30, 1e30) for one in factors):
            raise InputError(
                f"got {own!r:.100}, expected a learning rate and {self._count} weights",
                fix="Restore the study's record from a copy",
            )
        placed = zip(self._lessons, self._places, strict=True)
        return rate, [(task, examples, weight * factors[place]) for (task, examples, weight), place in placed]

    def _batches(self, birth: str, step: int, lessons: Lessons) -> list[tuple[float, AnswerBatch]]:
        """Examples of every task, each with its share of the loss."""
        assert self.model is not None
        each = max(1, self._settings.batch // len(lessons))
        total = sum(weight for _, _, weight in lessons)
        made = []
        for task, examples, weight in lessons:
            generator = numpy_generator(self._seed, "learning", birth, step, task.name)
            picked = generator.choice(len(examples), size=min(each, len(examples)), replace=False)
            chosen = [examples[int(i)] for i in picked]
            # A choice is judged by its text alone; what is written must also come to an end.
            closed = find_metric(task.settings.metric).needs == "text"
            encoded = encode_examples(self.model, chosen, task, each, closed=closed)
            made += [(weight / total * len(b.numbers) / len(picked), b) for b in encoded.batches]
        return made
