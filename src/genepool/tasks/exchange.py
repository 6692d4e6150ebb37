"""Outcomes as JSONL files: everything a ledger holds written out, read back, and read from lm-eval's sample logs.

A line is one outcome, as `Ledger.rows` gives it. Files are checked to the last line before the first row is
committed. Used by `genepool outcomes`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from genepool import staging
from genepool.bounded import read_text
from genepool.checked import is_line, is_number, is_text
from genepool.errors import InputError
from genepool.own_inputs import refuse_own_input
from genepool.tasks.example import Example
from genepool.tasks.harness_tasks import RANKED_BY, ranking_score
from genepool.tasks.ledger import Ledger, Outcome

# Who, on what: (fingerprint, model, task, asking).
_Asked = tuple[str, str, str, str]
_TEXTS = ("fingerprint", "model", "task", "asking", "example", "id")
# By these rows are found again: digests, in what we write.
_KEYS, _LONGEST_KEY = ("fingerprint", "asking", "example"), 200
# What lm-eval calls answers that are judged as they are.
_NO_FILTER = "none"
_LM_EVAL_FILE = re.compile(r"samples_(?P<task>.+?)(_\d{4}-\d{2}-\d{2}T[\d.:-]+)?")


def export_outcomes(ledger: Ledger, out: Path, *, overwrite: bool = False) -> int:
    """Writes every row of a ledger to a JSONL file, whole or not at all.

    Returns:
        The number of rows.

    Raises:
        InputError: the file exists and is not to be replaced, is the ledger, or cannot be written.
    """
    refuse_own_input(out, [ledger.path])
    staging.check_file(out, overwrite=overwrite, pipes=True)
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in ledger.rows()]
    staging.write_text(out, "".join(lines), overwrite=overwrite)
    return len(lines)


def import_outcomes(
    ledger: Ledger, path: Path, *, model: str | None = None, task: str | None = None
) -> tuple[int, int]:
    """Commits the outcomes of a file: an export of ours, or what lm-eval's `--log_samples` wrote.

    Args:
        ledger: where they go. Rows it has stay as they are.
        path: the JSONL file.
        model: lm-eval only, whose lines do not say: the model's name. Its fingerprint is a hash of the name, so these
            outcomes are never taken for those of weights.
        task: lm-eval only: the task's name; from the file's name when None. Where several filters judged the answers,
            each is a task of its own: "gsm8k:strict-match".

    Returns:
        How many rows the file has, and how many of them are new.

    Raises:
        InputError: a line is wrong, and then nothing is imported; the file and line are named.
    """
    evaluations: dict[_Asked, list[tuple[str, str, Outcome]]] = {}
    count = 0
    lines = list(_lines(path))
    filters = {str(line.get("filter", _NO_FILTER)) for _, line in lines if _is_lm_evals(line)}
    for where, line in lines:
        if _is_lm_evals(line):
            if not model:
                raise InputError("lm-eval's samples do not name their model", where="--model", fix="Name it")
            name = task or _task_of(path)
            if len(filters) > 1:
                # Each filter judges every answer: they are scores of their own, not more examples of one.
                name = f"{name}:{line.get('filter', _NO_FILTER)}"
            asked, row = _from_lm_eval(line, where, model, name)
        else:
            if model or task:
                raise InputError(
                    "has no effect on genepool's own exports, which name their models and tasks",
                    where="--model" if model else "--task",
                    fix="Leave it out",
                )
            asked, row = _from_ours(line, where)
        evaluations.setdefault(asked, []).append(row)
        count += 1
    if not count:
        raise InputError("the file has no outcomes", where=path, fix="Check the file")
    return count, ledger.record_all((*asked, rows) for asked, rows in evaluations.items())


def _is_lm_evals(line: Mapping[str, Any]) -> bool:
    return "doc_id" in line and "fingerprint" not in line


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = read_text(Path(path), fix="Name a JSONL file in UTF-8")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            data = json.loads(line)
            # Half a character, written as an escape, is JSON but no text that can be stored.
            json.dumps(data, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise InputError(f"this line is not JSON ({error})", where=where, fix="Correct or remove it") from None
        if not isinstance(data, dict):
            raise InputError("is not an object", where=where, fix="Correct or remove it")
        yield where, data


def _from_ours(line: Mapping[str, Any], where: str) -> tuple[_Asked, tuple[str, str, Outcome]]:
    for key in _TEXTS:
        text = line.get(key)
        if not is_text(text) or (key in _KEYS and not (text and is_line(text, _LONGEST_KEY))):
            raise InputError(
                f"`{key}` must be {'a key' if key in _KEYS else 'text'}, not {text!r:.60}",
                where=where,
                fix="Import what `genepool outcomes export` wrote",
            )
    output, detail = line.get("output"), line.get("detail") or {}
    if output is not None and not isinstance(output, str):
        raise InputError("`output` must be text or null", where=where, fix="Correct it")
    if not isinstance(detail, dict) or not all(is_number(value) for value in detail.values()):
        raise InputError("`detail` must hold numbers", where=where, fix="Correct it")
    outcome = Outcome(_score(line.get("score"), "score", where), output, detail)
    asked = (line["fingerprint"], line["model"], line["task"], line["asking"])
    return asked, (line["example"], line["id"], outcome)


def _from_lm_eval(
    line: Mapping[str, Any], where: str, model: str, task: str
) -> tuple[_Asked, tuple[str, str, Outcome]]:
    named = line.get("metrics")
    known: Sequence[str] = [name for name in named if isinstance(name, str)] if isinstance(named, list) else ()
    metric = ranking_score(line, known)
    if metric is None:
        raise InputError("has no known metric", where=where, fix="Known: " + ", ".join(RANKED_BY))
    score = _score(line[metric], metric, where)
    asking = _sha("lm-eval", metric, str(line.get("filter", _NO_FILTER)))
    example = _lm_eval_example(line, where)
    written = line.get("filtered_resps")
    first = written[0] if isinstance(written, list) and written else written
    detail = {name: float(line[name]) for name in dict.fromkeys((*RANKED_BY, *known)) if is_number(line.get(name))}
    outcome = Outcome(score, first if isinstance(first, str) else None, detail)
    return (_sha("imported:" + model), model, task, asking), (example.key, example.id, outcome)


def _lm_eval_example(line: Mapping[str, Any], where: str) -> Example:
    """The example as far as the log tells it: what the model read, what was right, what there was to choose from."""
    arguments = line.get("arguments")
    if isinstance(arguments, dict):
        # Since 0.4.2: {"gen_args_0": {"arg_0": prompt, "arg_1": ...}, ...}; before, lists.
        arguments = [list(call.values()) if isinstance(call, dict) else call for call in arguments.values()]
    calls = [call for call in arguments or () if isinstance(call, list) and call and isinstance(call[0], str)]
    if not calls:
        raise InputError("`arguments` does not hold what the model read", where=where, fix="Log with --log_samples")
    continuations = [call[1] for call in calls if len(call) > 1 and isinstance(call[1], str)]
    choices = tuple(continuations) if len(calls) > 1 and len(continuations) == len(calls) else ()
    target = line.get("target")
    if isinstance(target, str) and target.isdecimal() and choices:
        target = int(target)
    if isinstance(target, int) and 0 <= target < len(choices):
        target = choices[target]
    answers = tuple(str(item) for item in (target if isinstance(target, list) else [target]))
    return Example(str(line["doc_id"]), calls[0][0], answers, choices)


def _task_of(path: Path) -> str:
    """lm-eval names its files samples_<task>_<time>.jsonl."""
    found = _LM_EVAL_FILE.fullmatch(path.stem)
    return found["task"] if found else path.stem


def _score(value: object, name: str, where: str) -> float:
    if not is_number(value, 0, 1):
        raise InputError(f"`{name}` must be a number from 0 to 1, got {value!r}", where=where, fix="Correct it")
    return float(value)


def _sha(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
