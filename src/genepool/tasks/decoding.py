"""Asking a model: decoding in batches, and judging an expected answer in one pass.

Batches are cut from the examples sorted by length, so their shapes depend on the examples alone, and a result is the
same whoever computes it. Prompts are padded on the left where tokens are to follow, on the right where none are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genepool import seeding
from genepool.errors import InputError
from genepool.tasks.written_rows import BatchRows, Rows, RowsInRoom

if TYPE_CHECKING:
    import torch

    from genepool.tasks.models.causal_lm import LanguageModel
    from genepool.tasks.tokenized import TokenizedNetwork, WritingNetwork

DEFAULT_BATCH = 128
# Logits of one batch stay below this many bytes: vocabularies of 100,000 and more would otherwise fill the memory.
LOGIT_BYTES = 512 * 1024**2
# Ended rows leave when at most this share of the lines goes on.
_LEAVE_AT = 0.75
#: A temperature below which only the likeliest tokens have a share.
_COLD = 1e-6


@dataclass(frozen=True)
class Decoding:
    """How answers are written.

    Attributes:
        max_new_tokens: tokens after which a model is stopped.
        stop: texts that end an answer; neither they nor what follows is part of it.
        temperature: 0 takes the likeliest token; above, tokens are drawn from the sharpened or flattened shares.
        top_p: draw only from the likeliest tokens that together have this share.
        seed: each prompt draws from (seed, its key), so other prompts in the batch never change a sample.
    """

    max_new_tokens: int = 64
    stop: tuple[str, ...] = field(default=())
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Forced:
    """What one pass over a prompt and its expected answer tells.

    Attributes:
        matches: True when greedy decoding writes exactly the answer, False when it certainly writes something
            else, None when only decoding can tell.
        logprob: log-likelihood of the answer's tokens, natural logarithm, summed.
        token_accuracy: share of the answer's tokens that are the likeliest at their place.
        tokens: number of the answer's tokens.
    """

    matches: bool | None
    logprob: float
    token_accuracy: float
    tokens: int


def batches(lengths: Sequence[int], size: int, logit_bytes: int, last_only: bool = False) -> Iterator[list[int]]:
    """Indices of equal-sized batches in order of length, longest first so that a lack of memory shows at once.

    Args:
        lengths: tokens per row.
        size: rows at most.
        logit_bytes: bytes of the logits of one token.
        last_only: only a row's last token has logits.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        row_bytes = logit_bytes * (1 if last_only else lengths[order[0]])
        rows = min(size, max(1, LOGIT_BYTES // max(1, row_bytes)))
        yield order[:rows]
        order = order[rows:]


def forced_answers(
    model: LanguageModel,
    prompts: Sequence[str],
    answers: Sequence[str],
    decoding: Decoding,
    strip: bool,
    batch_size: int,
) -> list[Forced]:
    """Judges expected answers by reading them, one pass per batch, instead of writing answers token by token.

    Greedy decoding writes the answer if and only if each of its tokens is the likeliest after those before it, and
    an end follows. Where a mismatch does not settle the matter (another tokenisation of the same text, white space
    that will be stripped), `matches` is None.
    """
    import torch

    model.encode_ahead(prompt + answer for prompt, answer in zip(prompts, answers, strict=True))
    heads = model.encode_all(prompts)
    tails = [continuation(model, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    check_length(model, heads, tails)
    lengths = [len(head) + len(tail) for head, tail in zip(heads, tails, strict=True)]
    results: list[Forced | None] = [None] * len(prompts)
    with torch.inference_mode():
        for rows in batches(lengths, batch_size, model.logit_bytes):
            width = max(lengths[i] for i in rows)
            ids = torch.zeros(len(rows), width, dtype=torch.long)
            for row, i in enumerate(rows):
                ids[row, : lengths[i]] = torch.tensor(heads[i] + tails[i])
            # Padding stands behind every token that matters, so the causal mask alone keeps it out.
            begins = model.answers_begin([len(heads[i]) - 1 for i in rows])
            logits = model.run(rows, input_ids=ids.to(model.device), use_cache=False, **begins).logits.float()
            best = logits.argmax(-1).cpu()
            shares = torch.log_softmax(logits, -1)
            targets = ids.roll(-1, 1).to(model.device).unsqueeze(-1)
            likelihood = shares.gather(-1, targets).squeeze(-1).cpu()
            for row, i in enumerate(rows):
                first, count = len(heads[i]) - 1, len(tails[i])
                written = best[row, first : first + count + 1].tolist()
                logprob = float(likelihood[row, first : first + count].sum())
                room = model.context - len(heads[i])
                results[i] = forced(model, written, logprob, tails[i], answers[i], decoding, strip, room)
    return [result for result in results if result is not None]


def forced(
    model: WritingNetwork,
    written: list[int],
    logprob: float,
    expected: list[int],
    answer: str,
    decoding: Decoding,
    strip: bool,
    room: int,
) -> Forced:
    """What reading an expected answer tells.

    Args:
        model: who read it.
        written: the likeliest token at each of the answer's places, and behind them.
        logprob: log-likelihood of the answer's tokens.
        expected: the answer's tokens.
        answer: its text.
        decoding, strip: as for `forced_answers`.
        room: tokens left in the context.
    """
    hits = sum(a == b for a, b in zip(written, expected, strict=False))
    matches = _verdict(model, written, expected, answer, decoding, strip, room)
    return Forced(matches, logprob, hits / len(expected) if expected else 1.0, len(expected))


def _verdict(
    model: WritingNetwork,
    written: list[int],
    expected: list[int],
    answer: str,
    decoding: Decoding,
    strip: bool,
    room: int,
) -> bool | None:
    """Whether greedy decoding, with `room` tokens left in the context, writes `answer`, by the likeliest tokens."""
    limit = min(decoding.max_new_tokens, room)
    if len(expected) > limit or any(stop in answer for stop in decoding.stop):
        return None
    if model.decode(expected) != answer:
        # Characters the tokenizer does not know, special tokens, spaces it drops: its tokens are not the answer.
        return None
    if model.backspace is not None and written[: len(expected)] != expected:
        # It may take back what it is likeliest to write.
        return None
    if {row[-1] for row in model.banned} & set(written):
        # What is likeliest may not be written.
        return None
    for place, token in enumerate(expected):
        if written[place] == token:
            continue
        if not model.one_tokenisation or answer != answer.strip():
            return None
        if written[place] in model.end_tokens:
            return False
        return _other_text(model.decode([written[place]]), decoding, strip)
    if len(expected) == limit:
        return True
    last = written[len(expected)]
    if last in model.end_tokens:
        return True
    text = model.decode([*expected, last])
    if stops_in(text, decoding.stop):
        # A stop may begin inside the answer and take its end away.
        return True if cut_at_stop(text, decoding.stop) == answer else None
    if not model.one_tokenisation or answer != answer.strip():
        return None
    return _other_text(model.decode([last]), decoding, strip)


def _other_text(text: str, decoding: Decoding, strip: bool) -> bool | None:
    """What a character that the answer does not have at this place means: False, or None if it may yet vanish."""
    if text in decoding.stop:
        return False
    if not text or any(stop.startswith(text) for stop in decoding.stop):
        # A special token writes nothing; the beginning of a stop may be cut off again.
        return None
    return None if strip and not text.strip() else False


@dataclass(frozen=True)
class Written:
    """What a model wrote after a prompt.

    Attributes:
        text: without the stop that ended it.
        logprob: log-likelihood of the tokens it wrote, an end token not counted, natural logarithm; of the model
            itself, whatever the temperature they were drawn at.
        tokens: all of them, with the stop or the end token that ended it; empty for models that do not tell.
    """

    text: str
    logprob: float
    tokens: tuple[int, ...] = ()


def generate(
    model: LanguageModel, prompts: Sequence[str], keys: Sequence[str], decoding: Decoding, batch_size: int
) -> list[Written]:
    """What the model writes after each prompt.

    Args:
        model: who is asked.
        prompts: texts.
        keys: one per prompt; the randomness of a drawn answer belongs to (seed, key).
        decoding: how.
        batch_size: prompts decoded at once.

    Raises:
        InputError: a prompt is longer than the model's context.
    """
    return generate_tokens(model, model.encode_all(prompts), keys, decoding, batch_size)


def generate_tokens(
    model: LanguageModel, heads: Sequence[Sequence[int]], keys: Sequence[str], decoding: Decoding, batch_size: int
) -> list[Written]:
    """As `generate`, after prompts given as token ids."""
    import torch

    from genepool.tasks.taking_back import write_taking_back

    check_length(model, heads)
    write_batch = _decode_batch if model.backspace is None else write_taking_back
    outputs: dict[int, Written] = {}
    with torch.inference_mode():
        longest = model.turns_at - decoding.max_new_tokens
        # Rows that a network turns otherwise are written apart: it turns all rows of a batch alike.
        for turned in (False, True):
            part = [i for i, head in enumerate(heads) if (len(head) > longest) == turned]
            lengths = [len(heads[i]) for i in part]
            for batch in batches(lengths, batch_size, model.logit_bytes, bool(model.last_logits_only)):
                rows = [part[at] for at in batch]
                written = write_batch(model, [heads[i] for i in rows], [keys[i] for i in rows], decoding, rows)
                outputs.update(zip(rows, written, strict=True))
    return [outputs[i] for i in range(len(heads))]


def _decode_batch(
    model: LanguageModel,
    heads: Sequence[Sequence[int]],
    keys: Sequence[str],
    decoding: Decoding,
    requests: Sequence[int],
) -> list[Written]:
    """What is written after each prompt of a batch; `requests` are the prompts' numbers."""
    # Each row's own room, so that a longer prompt in the batch never cuts a shorter one's answer.
    limits = [min(decoding.max_new_tokens, model.context - len(head)) for head in heads]
    # What is read before a network turns its keys otherwise does not go with what it reads after.
    turns = any(len(head) + limit > model.turns_at for head, limit in zip(heads, limits, strict=True))
    rows = (RowsInRoom if model.rows_may_leave and not turns else Rows)(model, heads, requests)
    return write_rows(model, rows, limits, keys, decoding)


def write_rows(
    model: WritingNetwork,
    rows: BatchRows,
    limits: Sequence[int],
    keys: Sequence[str],
    decoding: Decoding,
) -> list[Written]:
    """Writes the rows of a batch, token by token.

    Args:
        model: who writes.
        rows: the batch; each row is a line of it until rows leave.
        limits: the most tokens of each row.
        keys: one per row; the randomness of a drawn answer belongs to (seed, key).
        decoding: how.
    """
    generators = [seeding.torch_generator(decoding.seed, "decode", key) for key in keys] if decoding.temperature else []
    written: list[list[int]] = [[] for _ in limits]
    ends: list[list[int]] = [[] for _ in limits]
    logprobs = [0.0] * len(limits)
    running = [True] * len(limits)
    lines = list(range(len(limits)))
    chosen: torch.Tensor | None = None
    while any(running):
        going = [line for line, row in enumerate(lines) if running[row]]
        # To leave costs a copy of what stays, which pays where many rows leave at once.
        if chosen is not None and len(going) <= _LEAVE_AT * len(lines) and rows.keep(going):
            lines, chosen = [lines[line] for line in going], chosen[going]
        logits = rows.step(None if chosen is None else chosen.reshape(-1, 1).to(model.device)).float()
        if model.banned:
            logits = _without_banned(logits, [written[row] for row in lines], model.banned)
        chosen = choose(logits, [generators[row] for row in lines] if generators else [], decoding)
        shares = logits.log_softmax(-1).gather(-1, chosen.to(logits.device).reshape(-1, 1)).squeeze(-1)
        for row, token, share in zip(lines, chosen.tolist(), shares.tolist(), strict=True):
            if not running[row]:
                continue
            if token in model.end_tokens:
                running[row], ends[row] = False, [token]
                continue
            written[row].append(token)
            logprobs[row] += share
            full = len(written[row]) == limits[row]
            if full or (decoding.stop and stops_in(model.decode(written[row]), decoding.stop)):
                running[row] = False
    return [
        Written(cut_at_stop(model.decode(ids), decoding.stop), logprob, (*ids, *end))
        for ids, logprob, end in zip(written, logprobs, ends, strict=True)
    ]


def _without_banned(
    logits: torch.Tensor, written: Sequence[Sequence[int]], banned: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Logits under which no row goes on to the last token of a banned row of tokens."""
    logits = logits.clone()
    for before in banned:
        *begun, last = before
        for row, tokens in enumerate(written):
            if not begun or list(tokens[-len(begun) :]) == begun:
                logits[row, last] = -float("inf")
    return logits


def choose(logits: torch.Tensor, generators: Sequence[torch.Generator], decoding: Decoding) -> torch.Tensor:
    """The next token of each row: the likeliest at temperature 0, else one that is drawn by the row's generator."""
    return _draw(logits.cpu(), generators, decoding) if decoding.temperature else _likeliest(logits)


def _likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The first of the largest logits of each line."""
    import torch

    # numpy's search is ten times as fast as torch's on a processor.
    return torch.from_numpy(logits.numpy().argmax(-1)) if logits.device.type == "cpu" else logits.argmax(-1)


def _draw(logits: torch.Tensor, generators: Sequence[torch.Generator], decoding: Decoding) -> torch.Tensor:
    """One token per row, each row from its own generator."""
    import torch

    if not logits.isfinite().any(-1).all() or logits.isnan().any():
        raise InputError(
            "the model's logits are NaN or infinite",
            fix="Decode at temperature 0, or check the model with genepool inspect",
        )
    temperature = decoding.temperature
    if temperature < _COLD:
        # Divided by so little, the logits would be infinite; their distances from the largest may be.
        logits, temperature = logits - logits.max(-1, keepdim=True).values, max(temperature, 1e-30)
    shares = torch.softmax(logits / temperature, -1)
    if decoding.top_p < 1:
        ordered, order = shares.sort(-1, descending=True)
        # A token stays if the more likely ones before it do not reach top_p yet: the likeliest always does.
        ordered[(ordered.cumsum(-1) - ordered) >= decoding.top_p] = 0
        shares = torch.zeros_like(shares).scatter(-1, order, ordered)
    return torch.cat([torch.multinomial(row, 1, generator=g) for row, g in zip(shares, generators, strict=True)])


def continuation(model: LanguageModel, prompt: str, answer: str) -> list[int]:
    """The answer's tokens as they stand after the prompt's own."""
    whole, own_head = model.encode_whole(prompt + answer), model.encode_whole(prompt)
    if whole[: len(own_head)] == own_head:
        return whole[len(own_head) :]
    # The tokenizer joined the end of the prompt with the answer: encode the answer on its own.
    return model.read_alone(answer)


class PromptTooLong(InputError):
    """A prompt, or a prompt and its answer, does not fit the context."""


def check_length(
    model: TokenizedNetwork, heads: Sequence[Sequence[int]], tails: Sequence[Sequence[int]] = (), *, unread: int = 0
) -> None:
    """There must be room for a prompt and its answer but its last `unread` tokens, or for one new token.

    Without answers, `unread=1` asks for no new token: a prompt that is only read may fill the context.
    """
    for place, head in enumerate(heads):
        tail = tails[place] if tails else [0]
        if len(head) + max(len(tail) - unread, 0) > model.context:
            behind = f" and an answer of {len(tail)}" if tails else ""
            raise PromptTooLong(
                f"the prompt of {len(head)} tokens{behind} does not fit the context of {model.context}",
                where=model.name,
                fix="Shorten it, or set a smaller few_shot",
            )


def stops_in(text: str, stops: Sequence[str]) -> bool:
    """Whether one of the texts that end an answer is in it."""
    return any(stop in text for stop in stops)


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of those that end an answer."""
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
