"""What a model keeps of its score under another tokenizer: `genepool vocabulary transplant` by every method.

On the tiny testbed of strings. A byte-pair tokenizer is trained on the training split of its tasks, with a few merges
on top of its characters, and a base of the bed's shape is trained from scratch under it: the donor. Every specialist
then gets the donor's tokenizer, and answers the test split of its own task.

    python -m benchmarks.vocabulary [FOLDER THAT KEEPS THE MODELS]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, trainers
from transformers import PreTrainedTokenizerFast

import genepool
from benchmarks.measuring import table
from genepool.testbed import data, training
from genepool.testbed.schedule import schedule_for
from genepool.testbed.skills import DEFAULT_SKILLS, SKILLS
from genepool.testbed.tokenizer import END, END_ID, PAD, PAD_ID, UNKNOWN, VOCABULARY
from genepool.weights import open_weights
from genepool.weights.vocabulary.transplant.donor import open_donor
from genepool.weights.vocabulary.transplant.estimators import row_estimators
from genepool.weights.vocabulary.transplant.transplanting import Transplantation, TransplantSettings

MERGES = (16, 64)
SEEDS = (0, 1)
LIMIT = 256
_IGNORED = -100


def run(keep: Path | None = None) -> str:
    """The table.

    Args:
        keep: a folder that models are kept in, and taken from where an earlier run left them.
    """
    if keep is None:
        with tempfile.TemporaryDirectory() as name:
            return run(Path(name))
    kept: dict[tuple[str, int], list[float]] = {}
    new: dict[int, list[float]] = {}
    with training.one_torch_thread():
        for seed in SEEDS:
            bed = genepool.build_testbed(keep / f"bed-{seed}", tiny=True, seed=seed)
            for merges in MERGES:
                tokenizer, donor = train_tokenizer(bed.tasks, merges), keep / f"donor-{seed}-{merges}"
                if not donor.is_dir():
                    train_donor(donor, tokenizer, seed)
                new.setdefault(merges, []).append(_share_of_new_tokens(tokenizer, bed.tasks))
                _measure(bed, donor, seed, merges, kept, keep / "ledger.sqlite")
    rows = [
        [method, *(f"{sum(kept[method, merges]) / len(kept[method, merges]):.2f}" for merges in MERGES)]
        for method in row_estimators()
    ]
    shares = ", ".join(f"{100 * sum(new[merges]) / len(new[merges]):.0f}% with {merges}" for merges in MERGES)
    return table(
        "Another tokenizer",
        f"Share of the score that {len(DEFAULT_SKILLS)} specialists of {len(SEEDS)} tiny testbeds keep on their own "
        f"task, {LIMIT} examples each. Of the tokens of the prompts {shares} merges are new.",
        ("method", *(f"{merges} merges" for merges in MERGES)),
        rows,
    )


def _measure(
    bed: Any, donor: Path, seed: int, merges: int, kept: dict[tuple[str, int], list[float]], ledger: Path
) -> None:
    for skill in DEFAULT_SKILLS:
        specialist = open_weights(bed.full[skill])
        asked: list[Any] = [specialist]
        for estimator in row_estimators().values():
            settings = TransplantSettings(estimator, seed=seed)
            asked.append(Transplantation(specialist, open_donor(str(donor)), settings).weights())
        names = ["before", *row_estimators()]
        scores = genepool.evaluate(asked, bed.tasks / skill, ledger, limit=LIMIT, names=names)
        before = scores.mean("before", skill)
        for method in row_estimators():
            kept.setdefault((method, merges), []).append(scores.mean(method, skill) / before)


# ---------------------------------------------------------------------- the donor


def _texts(tasks: Path, split: str) -> list[tuple[str, str]]:
    lines = [line for skill in DEFAULT_SKILLS for line in (tasks / skill / f"{split}.jsonl").read_text().splitlines()]
    return [(example["prompt"], example["answer"]) for example in map(json.loads, lines)]


def train_tokenizer(tasks: Path, merges: int) -> Tokenizer:
    """A byte-pair tokenizer of the bed's characters and so many merges, trained on prompts and answers."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(
        vocab_size=len(VOCABULARY) + merges,
        special_tokens=[PAD, END, UNKNOWN],
        initial_alphabet=list(VOCABULARY[3:]),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for pair in _texts(tasks, "train") for text in pair], trainer)
    return tokenizer


def train_donor(folder: Path, tokenizer: Tokenizer, seed: int) -> None:
    """A base of the bed's shape, trained from scratch on the bed's mixture under another tokenizer."""
    schedule = schedule_for("elicit", tiny=True, skills=len(DEFAULT_SKILLS))
    skills = tuple(SKILLS[name] for name in DEFAULT_SKILLS)
    # Another seed than the bed's: the two models have nothing in common but what they were trained on.
    mixture = data.Mixture(skills, schedule.lengths, seed + 100, teach_base=True)
    model = training.new_base(schedule, seed + 100)
    model.resize_token_embeddings(tokenizer.get_vocab_size(), mean_resizing=False)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients(step: int) -> list[torch.Tensor]:
        ids, labels = _tensors(tokenizer, mixture.base_batch(step, schedule.base.batch))
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED)
        return list(torch.autograd.grad(loss, parameters))

    model.train()
    training.optimise(parameters, gradients, schedule.base, lambda: None)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=schedule.context,
    ).save_pretrained(folder)


def _tensors(tokenizer: Tokenizer, examples: list[data.StringExample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and the wanted next tokens, (examples, longest); every token of prompt and answer is wanted."""
    rows = [tokenizer.encode(one.prompt).ids + tokenizer.encode(one.answer).ids + [END_ID] for one in examples]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [PAD_ID] * (longest - len(row)) for row in rows])
    labels = torch.tensor([row[1:] + [_IGNORED] * (longest - len(row) + 1) for row in rows])
    return ids, labels


def _share_of_new_tokens(tokenizer: Tokenizer, tasks: Path) -> float:
    ids = [number for prompt, _ in _texts(tasks, "test") for number in tokenizer.encode(prompt).ids]
    return sum(tokenizer.id_to_token(number) not in VOCABULARY for number in ids) / len(ids)


if __name__ == "__main__":
    print(run(Path(sys.argv[1]) if sys.argv[1:] else None))
