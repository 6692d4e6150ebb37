"""Reads the command lines that tests run out of their source: which options of which commands are ever passed.

A call counts where it runs a command: the fixture `cli`, `genepool.cli.main.run`, a process of `python -m genepool`,
or a function of the test file that passes its own arguments on to one of these; and in a test that no machine skips.
Names are followed to what they stand for (an assignment before the call, a row of a loop or of a parametrisation, a
fixture of the file), never guessed: a word that is known only when the test runs is None.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Value = str | tuple[Any, ...] | None
"""A word, a sequence of values, or something that the source does not tell."""
Names = Mapping[str, Value]
Function = ast.FunctionDef | ast.AsyncFunctionDef

# Most files run no command, and reading them takes its time.
_MAY_RUN = re.compile(r"\bcli\b|['\"]genepool['\"]")
_PROCESSES = ("run", "Popen", "check_output", "check_call")


class Option(NamedTuple):
    """One spelling of an option that a test must pass."""

    command: str
    """The words of the command, such as "skill extract"; empty for genepool itself."""
    spelling: str
    """The long form: "--quiet". The negative of a pair, such as "--no-rank", is an option of its own."""


def options_of(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Option]]]:
    """One of typer's commands and all below it: its words, and what each spelling counts as. `--help` is left out."""
    found: dict[str, Option] = {}
    for parameter in command.params:
        if parameter.param_type_name == "option" and "--help" not in parameter.opts:
            for spellings in filter(None, (parameter.opts, parameter.secondary_opts)):
                found |= dict.fromkeys(spellings, Option(" ".join(words), max(spellings, key=len)))
    yield words, found
    for name, below in getattr(command, "commands", {}).items():
        yield from options_of(below, (*words, name))


def untested(command: Any, sources: Iterable[str]) -> list[Option]:
    """The options of a command, and of those below it, that no test passes."""
    known = dict(options_of(command))
    wanted = {option for spellings in known.values() for option in spellings.values()}
    for source in sources:
        for call in commands_run(source):
            wanted -= set(_passed(call, known))
    return sorted(wanted)


def _passed(call: Sequence[Value], known: Mapping[tuple[str, ...], dict[str, Option]]) -> Iterator[Option]:
    words: tuple[str, ...] = ()
    for word in call:
        if not isinstance(word, str) or (*words, word) not in known:
            break
        words = (*words, word)
    for word in call[len(words) :]:
        if isinstance(word, str) and (option := known[words].get(word.split("=")[0])):
            yield option


def commands_run(source: str) -> Iterator[Sequence[Value]]:
    """What follows "genepool" in every command line that a test file runs."""
    if not _MAY_RUN.search(source):
        return
    file = _File(ast.parse(source))
    for call in _calls(file.tree):
        if file.runs_a_command(call) and not any(map(_may_be_skipped, (*file.functions(call), file.tree))):
            for names in file.rows_around(call):
                yield from file.runs(call, names)


class _File:
    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.above = {below: node for node in ast.walk(tree) for below in ast.iter_child_nodes(node)}
        self.runners = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "genepool.cli.main"
            for alias in node.names
            if alias.name == "run"
        }

    # ------------------------------------------------------------------ which calls run a command

    def runs_a_command(self, call: ast.Call) -> bool:
        """Whether a call may be one of those that do."""
        match call.func:
            case ast.Attribute(attr=name):
                return name in _PROCESSES
            case ast.Name(id=name):
                return name == "cli" or name in self.runners or self.passing_on(name, call) is not None
        return False

    def runs(self, call: ast.Call, names: Names) -> Iterator[Sequence[Value]]:
        """The command lines that a call runs, where names stand for these values."""
        if not self.runs_a_command(call):
            return
        words = self.row(call.args, names)
        first = words[0] if words and isinstance(words[0], tuple) else ()
        name = call.func.id if isinstance(call.func, ast.Name) else None
        if name is None:
            if ("-m", "genepool") in itertools.pairwise(first):
                yield first[first.index("genepool") + 1 :]
        elif name == "cli":
            yield words
        elif name in self.runners:
            yield first
        elif (function := self.passing_on(name, call)) is not None:
            assert function.args.vararg is not None
            fixed, rest = [parameter.arg for parameter in function.args.args], function.args.vararg.arg
            given = {**dict(zip(fixed, words, strict=False)), rest: words[len(fixed) :]}
            for inner in _calls(function):
                if any(isinstance(node, ast.Starred) and ast.unparse(node.value) == rest for node in inner.args):
                    yield from self.runs(inner, given)

    def passing_on(self, name: str, call: ast.Call) -> Function | None:
        """The function of that name, or that a fixture of that name returns, if it takes `*arguments`."""
        for place in (*self.functions(call), self.tree):
            for node in place.body:
                if isinstance(node, Function) and node.name == name:
                    inner = [each for each in node.body if isinstance(each, Function)] if _is_fixture(node) else [node]
                    return next((each for each in inner if each.args.vararg is not None), None)
        return None

    def functions(self, node: ast.AST) -> Iterator[Function]:
        """The functions around a node, the innermost first."""
        while node in self.above:
            node = self.above[node]
            if isinstance(node, Function):
                yield node

    # ------------------------------------------------------------------ what an expression stands for

    def value(self, node: ast.AST, names: Names) -> Value:
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.JoinedStr(values=[ast.Constant(value=str(start)), *_]) if "=" in start:
                # f"--rank={rank}": the option is known, its value need not be.
                return start
            case ast.List(elts=members) | ast.Tuple(elts=members):
                return self.row(members, names)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self.row([ast.Starred(left), ast.Starred(right)], names)
            case ast.Call(func=ast.Attribute(value=text, attr="split"), args=[]):
                words = self.value(text, names)
                return tuple(words.split()) if isinstance(words, str) else None
            case ast.Call(func=ast.Name(id="enumerate"), args=[counted]):
                members_of = self.value(counted, names)
                return tuple((None, each) for each in members_of) if isinstance(members_of, tuple) else None
            case ast.Call(func=ast.Attribute(value=ast.Name(id="pytest"), attr="param"), args=members):
                return self.row(members, names) if len(members) > 1 else self.value(members[0], names)
            case ast.Name(id=name):
                return names[name] if name in names else self.named(node, names)
        return None

    def row(self, nodes: Iterable[ast.AST], names: Names) -> tuple[Value, ...]:
        """The members of a display such as [a, *b, "c"]; None in place of all members of an unknown b."""
        found: list[Value] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                members = self.value(node.value, names)
                found += members if isinstance(members, tuple) else (None,)
            else:
                found.append(self.value(node, names))
        return tuple(found)

    def named(self, name: ast.Name, names: Names) -> Value:
        """What a name stands for: what was last assigned to it above, or what the fixture of that name returns."""
        for place in (*self.functions(name), self.tree):
            nodes = ast.walk(place) if isinstance(place, Function) else place.body
            assigned = [
                (node.lineno, target, node.value)
                for node in nodes
                if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
                for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
                if node.lineno < name.lineno
                and name.id in {each.id for each in ast.walk(target) if isinstance(each, ast.Name)}
            ]
            if assigned:
                _, target, given = max(assigned, key=lambda each: each[0])
                return _matched(target, self.value(given, names)).get(name.id)
            if isinstance(place, Function) and name.id in {parameter.arg for parameter in place.args.args}:
                return self.returned(name.id)
        return None

    def returned(self, fixture: str) -> Value:
        for node in self.tree.body:
            if isinstance(node, Function) and node.name == fixture and _is_fixture(node):
                values = [each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value]
                return self.value(values[0], {}) if len(values) == 1 else None
        return None

    # ------------------------------------------------------------------ rows of loops and of parametrisations

    def rows_around(self, call: ast.Call) -> Iterator[Names]:
        """What loops and parametrisations give their names, one row after another: names of a row belong together."""
        choices: list[list[Names]] = []
        node: ast.AST = call
        while node in self.above:
            node = self.above[node]
            if isinstance(node, ast.For):
                choices.append(self.rows(node.target, node.iter))
            elif isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
                choices += [self.rows(each.target, each.iter) for each in node.generators]
            elif isinstance(node, Function):
                choices += [self.parametrised(mark) for mark in node.decorator_list if isinstance(mark, ast.Call)]
        for chosen in itertools.product(*choices):
            yield {name: value for row in reversed(chosen) for name, value in row.items()}

    def rows(self, target: ast.AST, over: ast.AST) -> list[Names]:
        values = self.value(over, {})
        return [_matched(target, each) for each in values] if isinstance(values, tuple) else [_matched(target, None)]

    def parametrised(self, mark: ast.Call) -> list[Names]:
        if not ast.unparse(mark.func).endswith("parametrize") or len(mark.args) != 2:
            return [{}]
        names, rows = (self.value(node, {}) for node in mark.args)
        if isinstance(names, str) and "," in names:
            names = tuple(name.strip() for name in names.split(","))
        target: ast.expr = (
            ast.Tuple([ast.Name(str(name)) for name in names]) if isinstance(names, tuple) else ast.Name(str(names))
        )
        return [_matched(target, row) for row in rows] if isinstance(rows, tuple) else [_matched(target, None)]


def _calls(node: ast.AST) -> list[ast.Call]:
    return [below for below in ast.walk(node) if isinstance(below, ast.Call)]


def _may_be_skipped(place: Function | ast.Module) -> bool:
    """Whether a test, or every test of the file, runs only on some machines."""
    if isinstance(place, Function):
        return any("pytest.mark.skip" in ast.unparse(mark) for mark in place.decorator_list)
    assigned = (node for node in place.body if isinstance(node, ast.Assign))
    return any(ast.unparse(node.targets[0]) == "pytestmark" and "skip" in ast.unparse(node.value) for node in assigned)


def _is_fixture(function: Function) -> bool:
    return any("fixture" in ast.unparse(decorator) for decorator in function.decorator_list)


def _matched(target: ast.AST, value: Value) -> dict[str, Value]:
    """What `target = value` gives each name."""
    if isinstance(target, ast.Name):
        return {target.id: value}
    targets = target.elts if isinstance(target, ast.List | ast.Tuple) else []
    fits = isinstance(value, tuple) and len(value) == len(targets)
    fits = fits and not any(isinstance(each, ast.Starred) for each in targets)
    values: Sequence[Value] = value if fits and isinstance(value, tuple) else [None] * len(targets)
    found: dict[str, Value] = {}
    for each, one in zip(targets, values, strict=True):
        found |= _matched(each.value if isinstance(each, ast.Starred) else each, one)
    return found
