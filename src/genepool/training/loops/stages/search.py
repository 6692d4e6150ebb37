"""The stage `search`: answers found step by step, in a tree that is searched by Monte Carlo."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pydantic import Field

from genepool.errors import InputError
from genepool.tasks import Task
from genepool.tasks.decoding import DEFAULT_BATCH, Decoding, generate_tokens
from genepool.training.examples import TrainingExample
from genepool.training.loops.data import Line, WrittenAnswer
from genepool.training.loops.judging import Judge, check_rewarded, described
from genepool.training.loops.recipe import Loop
from genepool.training.loops.stage import Done, Stage, StageOptions, StagePlace, StagePlan
from genepool.training.loops.tree import Node, chosen_leaf
from genepool.training.samples import Sample, writer

# Prompts that are searched side by side, and between two looks at the budget of tokens. Fixed: it decides when that is
# spent.
_AT_ONCE = 16


class SearchOptions(StageOptions):
    """Options of `search`."""

    of: str = Field(default="prompts", description="Lines whose prompts are answered.")
    to: str = Field(default="samples", description="Name of the lines with every whole answer that was found.")
    steps: str = Field(
        default="steps", description="Name of the lines with every step that was tried: its value as its reward."
    )
    step: str = Field(default="\n", min_length=1, description="The text that ends a step.")
    nodes: int = Field(default=20, ge=1, le=10_000, description="Steps in the tree of a prompt, at most.")
    depth: int = Field(default=6, ge=1, le=100, description="Steps of an answer in the tree, at most.")
    exploration: float = Field(default=2.0, ge=0, description="c: the weight of what was rarely tried.")
    width: int = Field(default=3, ge=1, le=64, description="Steps that are drawn after the one that was chosen.")
    temperature: float = Field(default=1.0, gt=0, le=100, description="At which tokens are drawn.")
    reward: str | dict[str, float | dict[str, Any]] = Field(
        default="metric", description="A reward, or several with their weights."
    )
    tokens: int | None = Field(
        default=None,
        ge=1,
        description="Go on to further prompts until this many tokens were generated; null: all prompts.",
    )


@dataclass
class _Searched:
    """A prompt with its tree.

    Attributes:
        line: the prompt.
        head: its tokens.
        root: of the tree.
        nodes: steps in the tree.
        found: every whole answer, the first one of each text.
        tokens: generated for it.
    """

    line: Line
    head: tuple[int, ...]
    root: Node = field(default_factory=Node)
    nodes: int = 0
    found: dict[str, WrittenAnswer] = field(default_factory=dict)
    tokens: int = 0


class SearchStage(Stage):
    """Searches a tree of steps for each prompt: choose a step by UCT, draw steps after it, finish and reward each."""

    name = "search"
    source = (
        "Jiang et al., MedS3: Towards Medical Slow Thinking with Self-Evolved Soft Dual-sided Process Supervision, "
        "arXiv:2501.12051: 20 nodes, depth 6, c 2, soft labels of steps"
    )
    when = "answers have steps, and whole ones are rarely right"
    Options: ClassVar[type[StageOptions]] = SearchOptions
    options: SearchOptions

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.options.of,)

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.options.to, self.options.steps)

    def check(self, loop: Loop, tasks: Mapping[str, Task]) -> None:
        check_rewarded(self.options.reward, tasks)

    def planned(self, loop: Loop, lines: Mapping[str, int]) -> StagePlan:
        prompts = lines[self.options.of]
        nodes = prompts * self.options.nodes
        return StagePlan({self.options.to: prompts, self.options.steps: nodes}, samples=nodes)

    def run(self, place: StagePlace) -> Done:
        ask = self.options
        lines = place.read(ask.of)
        if not lines:
            raise InputError("there is no prompt to search", where=place.folder, fix="Draw at least one")
        judge = Judge(ask.reward, place)
        able = writer(place.load(place.model))
        done: list[_Searched] = []
        for start in range(0, len(lines), _AT_ONCE):
            part = [
                _Searched(line, tuple(able.encode(place.tasks[line.task].prompt_for(line.example, able))))
                for line in lines[start : start + _AT_ONCE]
            ]
            self._search(place, part, judge)
            done += part
            if ask.tokens is not None and sum(one.tokens for one in done) >= ask.tokens:
                break
        answered = [replace(one.line, samples=tuple(one.found.values())) for one in done]
        tried = [line for one in done for line in _steps(one)]
        values = [line.samples[0].reward or 0.0 for line in tried]
        told = {
            **judge.check_failed(),
            **described(answered),
            "prompts": len(done),
            "nodes": len(tried),
            "step_value": statistics.fmean(values) if values else 0.0,
        }
        return Done({ask.to: answered, ask.steps: tried}, told, sum(one.tokens for one in done), labels=judge.labels)

    def _search(self, place: StagePlace, part: list[_Searched], judge: Judge) -> None:
        """Grows the trees of some prompts side by side, so that what they write shares batches."""
        ask = self.options
        growing, turn = part, 0
        while growing:
            leaves = [(one, chosen_leaf(one.root, ask.exploration, ask.depth)) for one in growing]
            asked = [(one, leaf) for one, leaf in leaves if leaf is not None for _ in range(ask.width)]
            written = self._write(place, asked, (ask.step,), f"step\x1f{turn}")
            fresh: list[tuple[_Searched, Node]] = []
            for (one, leaf), (step, tokens, ended) in zip(asked, written, strict=True):
                node = leaf.add(step, tokens, ended=ended) if one.nodes < ask.nodes else None
                if node is not None:
                    one.nodes += 1
                    fresh.append((one, node))
            self._simulate(place, fresh, judge, turn)
            turn += 1
            # Nothing was tried before after a leaf, so every turn adds a step to each tree that goes on.
            growing = [one for one, leaf in leaves if leaf is not None and one.nodes < ask.nodes]

    def _simulate(self, place: StagePlace, fresh: list[tuple[_Searched, Node]], judge: Judge, turn: int) -> None:
        """Finishes the answer behind each new step, and counts its reward in all steps up to it."""
        open_ = [(one, node) for one, node in fresh if not node.ended]
        rest = dict(zip([id(node) for _, node in open_], self._write(place, open_, (), f"end\x1f{turn}"), strict=True))
        for one, node in fresh:
            text, tokens, _ = rest.get(id(node), ("", (), True))
            whole, count = node.text + text, len(node.tokens) + len(tokens)
            lesson = TrainingExample(place.tasks[one.line.task], one.line.example)
            (judged,) = judge.judged([one.line], [Sample(lesson, one.head, (*node.tokens, *tokens), whole)], 1)
            (found,) = judged.samples
            if found.reward is not None:
                one.found.setdefault(whole, replace(found, tokens=count))
                node.back_up(found.reward)

    def _write(
        self, place: StagePlace, asked: Sequence[tuple[_Searched, Node]], stops: tuple[str, ...], turn: str
    ) -> list[tuple[str, tuple[int, ...], bool]]:
        """What the model writes after some steps, its tokens, and whether the answer ends there.

        Args:
            place: of the stage.
            asked: the prompts, each with the step to go on from.
            stops: texts that end a step and belong to it; none: up to the end of the answer.
            turn: which draw of the search it is.
        """
        able = writer(place.load(place.model))
        found: list[tuple[str, tuple[int, ...], bool]] = [("", (), True)] * len(asked)
        for name, task in place.tasks.items():
            at = [number for number, (one, _) in enumerate(asked) if one.line.task == name]
            if not at:
                continue
            times: Counter[str] = Counter()
            keys, heads = [], []
            for one, node in (asked[number] for number in at):
                key = one.line.example.key
                # Numbered within its prompt: what is searched beside it must not matter.
                keys.append(f"{turn}\x1f{key}\x1f{times[key]}")
                times[key] += 1
                heads.append((*one.head, *node.tokens))
            most, ends = task.settings.max_new_tokens, tuple(task.settings.stop)
            decoding = Decoding(most, (*ends, *stops), self.options.temperature, 1.0, place.seed)
            for number, head, written in zip(
                at, heads, generate_tokens(able, heads, keys, decoding, DEFAULT_BATCH), strict=True
            ):
                one, node = asked[number]
                one.tokens += len(written.tokens)
                # An answer is as long as the task lets one be, however many steps it has.
                tokens = written.tokens[: most - len(node.tokens)]
                text = able.decode(tokens) if len(tokens) < len(written.tokens) else written.text
                behind = able.decode(tokens)
                stopped = any(stop in behind for stop in stops) and not any(end in behind for end in ends)
                full = len(node.tokens) + len(tokens) >= most or len(head) + len(tokens) >= able.context
                found[number] = (behind if stopped else text), tokens, full or not stopped
        return found


def _steps(one: _Searched) -> list[Line]:
    """Every step of a tree as a line: the prompt with what was written before, the step, and its value."""
    found = []
    for number, node in enumerate(one.root.below()):
        # Of a step whose answers all failed to be rewarded nothing is known.
        if node.parent is None or not node.step or not node.visits:
            continue
        prompt = one.line.example.prompt + node.parent.text
        example = replace(
            one.line.example, id=f"{one.line.example.id}, step {number}", prompt=prompt, answers=(node.step,)
        )
        found.append(Line(one.line.task, example, (WrittenAnswer(node.step, 0, node.value),), own=True))
    return found
