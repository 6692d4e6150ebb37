"""What a step computes, by the kind of data it learns from: answers, pairs, labels, or what the model itself writes.

A trainer turns the lessons of a step into gradients and into rows of the record. Everything it does belongs to
(seed, step). Uses objectives, rewards and lessons; `session` runs one, and knows the optimiser and the clock.
"""

from __future__ import annotations

from genepool.training.objectives import AlignedObjective, LabelledObjective, PairObjective
from genepool.training.objectives.fast_slow import FastSlow
from genepool.training.objectives.hard import Hard
from genepool.training.objectives.process_reward import ProcessReward
from genepool.training.objectives.rep_mtl import RepMtl
from genepool.training.objectives.reward_model import RewardModelObjective
from genepool.training.objectives.sequence_match import SequenceMatch
from genepool.training.rollout_objective import RolloutObjective, ValuedRolloutObjective
from genepool.training.trainers.aligned import AlignedTrainer
from genepool.training.trainers.answers import AnswerTrainer
from genepool.training.trainers.fast_slow import FastSlowTrainer
from genepool.training.trainers.hard import HardTrainer
from genepool.training.trainers.labels import LabelTrainer
from genepool.training.trainers.pairs import PairTrainer
from genepool.training.trainers.process_reward import ProcessRewardTrainer
from genepool.training.trainers.rep_mtl import RepMtlTrainer
from genepool.training.trainers.reward_model import RewardModelTrainer
from genepool.training.trainers.rollouts import RolloutTrainer
from genepool.training.trainers.sequence_match import SequenceMatchTrainer
from genepool.training.trainers.trainer import Trainer, TrainerInputs
from genepool.training.trainers.valued_rollouts import ValuedRolloutTrainer


def trainer_for(inputs: TrainerInputs) -> Trainer:
    """The trainer for the objective of a training.

    Raises:
        InputError: the model cannot be trained with this objective, or an example cannot be read.
    """
    kinds: dict[type, type[Trainer]] = {
        AlignedObjective: AlignedTrainer,
        # Before the other objectives of pairs, of which it is one.
        FastSlow: FastSlowTrainer,
        Hard: HardTrainer,
        RepMtl: RepMtlTrainer,
        SequenceMatch: SequenceMatchTrainer,
        PairObjective: PairTrainer,
        # Before reward models of whole answers, of which it is one.
        ProcessReward: ProcessRewardTrainer,
        RewardModelObjective: RewardModelTrainer,
        LabelledObjective: LabelTrainer,
        ValuedRolloutObjective: ValuedRolloutTrainer,
        RolloutObjective: RolloutTrainer,
    }
    found = next((made for kind, made in kinds.items() if isinstance(inputs.objective, kind)), AnswerTrainer)
    return found(inputs)


__all__ = [
    "AlignedTrainer",
    "AnswerTrainer",
    "LabelTrainer",
    "PairTrainer",
    "ProcessRewardTrainer",
    "RepMtlTrainer",
    "RewardModelTrainer",
    "RolloutTrainer",
    "Trainer",
    "TrainerInputs",
    "ValuedRolloutTrainer",
    "trainer_for",
]
