"""The majority's answers, the better the less they are like the other texts: selection and variation together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from genepool.errors import InputError
from genepool.training.rewards import RewardInputs, RewardOptions
from genepool.training.rewards.majority import MajorityReward, VotingOptions, most_frequent
from genepool.training.samples import Sample

if TYPE_CHECKING:
    import torch

INVALID = -1.0
#: Lowest reward and width of the band, for the answers of the majority and for the others.
_RIGHT, _WRONG, _WIDTH = 0.5, -1.0, 0.5


class NoveltyOptions(VotingOptions):
    """What of a text is its answer, and how texts are compared."""

    encoder: str | None = Field(
        default=None,
        description="A text encoder, such as a sentence transformer, whose mean last hidden state embeds a text; null: "
        "the model itself as it was before the training.",
    )


class NoveltyReward(MajorityReward):
    """From 0.5 to 1 for the majority's answer, from -1 to -0.5 for another, -1 for none; the higher, the less alike.

    The novelty of a text is 1 - (a + m) / 2. a is its mean cosine with the other texts of its group (those that give
    the majority's answer, or those that give another), and with all of them where it is alone in its group; m is the
    largest cosine with any of them. Negative cosines count as 0. Within a group novelty is stretched to the whole band;
    texts that are equally novel get its middle, and one that is alone gets 1 or -0.5. Texts without an answer, or with
    an empty one, are left out of all this; so is a single text with an answer.
    """

    name = "novelty"
    source = (
        "Zhou et al., Evolving Language Models without Labels (EVOL-RL), arXiv:2509.15194, and the authors' code, "
        "which falls back to random embeddings where this reward fails"
    )
    when = "as majority, and texts that differ lead to one answer"
    Options: ClassVar[type[RewardOptions]] = NoveltyOptions
    models = ("encoder",)

    @property
    def needs_reference(self) -> bool:
        assert isinstance(self.options, NoveltyOptions)
        return self.options.encoder is None

    def begin(self, inputs: RewardInputs) -> None:
        from genepool.training.sentence_encoder import load_encoder

        assert isinstance(self.options, NoveltyOptions)
        named = self.options.encoder
        self._embed = inputs.embed if named is None else load_encoder(named, inputs.device, inputs.dtype)

    def score(self, samples: Sequence[Sample]) -> list[float]:
        answers = self.answers(samples)
        places = [place for place, answer in enumerate(answers) if answer]
        found = [INVALID] * len(samples)
        if len(places) < 2:
            return found
        given = [answers[place] for place in places]
        elected = most_frequent(given)
        embeddings = self.embedded([samples[place].text for place in places])
        rewards = novelty_rewards(embeddings, [answer == elected for answer in given])
        for place, reward in zip(places, rewards, strict=True):
            found[place] = reward
        return found

    def embedded(self, texts: Sequence[str]) -> torch.Tensor:
        """One row for each text, the mean of its last hidden states: shape (texts, hidden), float32.

        Raises:
            InputError: a state is no finite number.
        """
        import torch

        # Texts that are alike are read once: samples of a trained model often are.
        different = list(dict.fromkeys(texts))
        states = self._embed(different)
        rows = dict(zip(different, [one.float().mean(0) for one in states], strict=True))
        found = torch.stack([rows[text] for text in texts])
        if not bool(found.isfinite().all()):
            raise InputError(
                "the embedding of a text is no finite number", where="reward.novelty", fix="Name an encoder"
            )
        return found


def novelty_rewards(embeddings: torch.Tensor, right: Sequence[bool]) -> list[float]:
    """The reward of each text of one prompt.

    Args:
        embeddings: shape (texts, hidden), two texts or more.
        right: whether each gives the majority's answer.

    Example:
        >>> import torch
        >>> texts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
        >>> [round(reward, 3) for reward in novelty_rewards(texts, [True, True, True, False])]
        [0.5, 0.5, 1.0, -0.5]
    """
    import torch

    unit = embeddings / embeddings.norm(dim=1, keepdim=True).clamp_min(1e-8)
    cosines = (unit @ unit.T).clamp(0, 1)
    own = torch.tensor(right)
    found = torch.zeros(len(right))
    everyone = ~torch.eye(len(right), dtype=torch.bool)
    novelty = torch.zeros(len(right))
    for place in range(len(right)):
        others = everyone[place]
        group = others & (own == own[place])
        mean = cosines[place][group if bool(group.any()) else others].mean()
        novelty[place] = 1 - 0.5 * mean - 0.5 * cosines[place][others].max()
    for group, lowest, alone in ((own, _RIGHT, _RIGHT + _WIDTH), (~own, _WRONG, _WRONG + _WIDTH)):
        if int(group.sum()) == 1:
            found[group] = alone
        elif bool(group.any()):
            values = novelty[group]
            least, most = values.min(), values.max()
            stretched = (values - least) / (most - least) if most > least else torch.full_like(values, 0.5)
            found[group] = lowest + _WIDTH * stretched
    return [float(reward) for reward in found]
