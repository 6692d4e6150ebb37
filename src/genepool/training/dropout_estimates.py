"""How sure a trained adapter is: its answers under several draws of dropout, and what they say of its uncertainty.

Monte Carlo dropout of Gal and Ghahramani (arXiv:1506.02142) in the factors alone. The stage `reliable` uses it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genepool.tasks import LanguageModel
from genepool.training.fit import drawing


class DropoutEstimator:
    """A base with an adapter whose factors drop some of their inputs whenever the model is asked.

    Args:
        model: the base, loaded; the factors are put into it.
        adapter: the folder of the adapter.
        dropout: how likely an input of the factors is left out.
    """

    def __init__(self, model: LanguageModel, adapter: Path, dropout: float) -> None:
        import torch
        from peft import PeftConfig, PeftModel

        config = PeftConfig.from_pretrained(str(adapter))
        config.lora_dropout = dropout
        with warnings.catch_warnings():
            # PEFT asks transformers by names of which it says that they will go.
            warnings.simplefilter("ignore", FutureWarning)
            adapted = PeftModel.from_pretrained(model.model, str(adapter), config=config)
        adapted.eval()
        for name, module in adapted.named_modules():
            if "lora_dropout" in name and isinstance(module, torch.nn.Dropout):
                module.train()
        self._model = model

    def shares(self, prompts: Sequence[str], answers: Sequence[str], passes: int, seed: int) -> NDArray[np.float64]:
        """How likely each answer is after each prompt among the answers, in every pass: (passes, prompts, answers).

        Args:
            prompts: texts.
            answers: what is chosen from, the same for all prompts.
            passes: draws of dropout; pass t belongs to (seed, t).
            seed: of the draws.
        """
        asked = [prompt for prompt in prompts for _ in answers]
        found = []
        for number in range(passes):
            with drawing(seed, number, "estimate"):
                told = self._model.loglikelihoods(asked, [*answers] * len(prompts))
            logs = np.array([one.logprob for one in told]).reshape(len(prompts), len(answers))
            shares = np.exp(logs - logs.max(-1, keepdims=True))
            found.append(shares / shares.sum(-1, keepdims=True))
        return np.stack(found)


def mutual_information(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """BALD: what the passes disagree about, in nats, (prompts,): entropy of the mean minus the mean of the entropies.

    Args:
        shares: (passes, prompts, answers), each row adding up to 1.
    """
    from scipy.special import entr

    found: NDArray[np.float64] = entr(shares.mean(0)).sum(-1) - entr(shares).sum(-1).mean(0)
    # Rounding may leave less than nothing.
    return np.maximum(found, 0.0)
