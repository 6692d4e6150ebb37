"""What texts a source file holds: lines of code, sentences of documentation, comments, messages of errors.

Pure functions from the content of a file to texts; nothing is run and nothing imported. `texts` draws from them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

# Letters in a text, both ends included: enough to tell something, and at most about thirty tokens.
SHORTEST, LONGEST = 30, 90
# How a line begins that is a comment in one of the languages that are read.
_COMMENTS = ("#", "//", "/*", "*", "!", "c ", "C ", '"""', "'''", "..")
_SENTENCES = re.compile(r"(?<=[.!?])\s+")


def lines_of_code(content: str) -> list[str]:
    """Two lines that follow each other, joined by a line break; none of them is blank or begins as a comment."""
    lines = [line.strip() for line in content.splitlines()]
    found: list[str] = []
    at = 0
    while at + 1 < len(lines):
        one, two = lines[at : at + 2]
        taken = _is_code(one) and _is_code(two) and _fits(f"{one}\n{two}")
        found += [f"{one}\n{two}"] if taken else []
        at += 2 if taken else 1
    return found


def _is_code(line: str) -> bool:
    return bool(line) and not line.startswith(_COMMENTS)


def _fits(text: str) -> bool:
    return SHORTEST <= len(text) <= LONGEST


def single_lines(content: str) -> list[str]:
    """Lines of Python code outside of docstrings."""
    tree = _parsed(content)
    said = {
        number
        for node, _ in _documented(tree)
        for number in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    lines = [line.strip() for number, line in enumerate(content.splitlines(), 1) if number not in said]
    return [line for line in lines if _is_code(line) and _fits(line)]


def documentation(content: str) -> list[str]:
    """Sentences of the docstrings of Python code."""
    found = []
    for _, text in _documented(_parsed(content)):
        for paragraph in text.split("\n\n"):
            found += [one for one in _SENTENCES.split(" ".join(paragraph.split())) if _is_sentence(one)]
    return found


def _is_sentence(text: str) -> bool:
    return _fits(text) and text.endswith((".", "!", "?")) and _is_words(text)


def _is_words(text: str) -> bool:
    """Whether it is prose: most of five or more words are words."""
    words = text.split()
    return len(words) > 4 and sum(word.strip(".,;:!?()'\"`").isalpha() for word in words) >= 0.8 * len(words)


def comments(content: str) -> list[str]:
    """Whole-line comments of Python code, without their marks."""
    lines = (line.strip() for line in content.splitlines())
    texts = (" ".join(line.lstrip("#").split()) for line in lines if line.startswith("#"))
    return [text for text in texts if _fits(text) and _is_words(text)]


def messages(content: str) -> list[str]:
    """What exceptions of Python code say, where it is one piece of text."""
    raised = (node.exc for node in ast.walk(_parsed(content)) if isinstance(node, ast.Raise))
    said = (call.args[0] for call in raised if isinstance(call, ast.Call) and call.args)
    values = (one.value for one in said if isinstance(one, ast.Constant))
    texts = (" ".join(value.split()) for value in values if isinstance(value, str))
    return [text for text in texts if _fits(text)]


def _parsed(content: str) -> ast.Module:
    try:
        return ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])


def _documented(tree: ast.Module) -> Iterator[tuple[ast.Module | ast.ClassDef | ast.FunctionDef, str]]:
    """The nodes with a docstring, and the docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield node, text
