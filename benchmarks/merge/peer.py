"""mergekit in a virtual environment of its own, made on first use beside the checkpoints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from benchmarks.measuring import ROOT, tell
from genepool import staging
from genepool.errors import InputError

VERSION = "0.1.5"


def find(python: Path) -> tuple[Path, str]:
    """mergekit's command and version in the environment of an interpreter.

    Raises:
        InputError: it is not there.
    """
    # Not resolved: the interpreter of an environment is a link, and its place is what makes the environment.
    command = python.absolute().with_name("mergekit-yaml")
    question = "from importlib.metadata import version; print(version('mergekit'))"
    try:
        answer = subprocess.run([python, "-c", question], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise InputError("no mergekit there", where=python, fix="Name the Python of its environment") from None
    if not command.is_file():
        raise InputError("no command mergekit-yaml there", where=command, fix="Install mergekit again")
    return command, answer.stdout.strip()


def install(folder: Path) -> Path:
    """Makes an environment with mergekit and the torch of our constraints, unless it is there; its interpreter.

    Raises:
        InputError: pip failed; its output has been shown.
    """
    python = folder / "bin" / "python"
    done = folder / "installed"
    wanted = f"mergekit=={VERSION}\n{torch_pin((ROOT / 'constraints.txt').read_text())}\n"
    if done.is_file() and done.read_text() == wanted:
        return python
    tell(f"installing mergekit {VERSION} into {folder}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted.split()]
    if subprocess.run(pip, stdout=sys.stderr, check=False).returncode:
        raise InputError(
            "pip could not install mergekit", where=folder, fix="Install it yourself and pass --mergekit PYTHON"
        )
    staging.write_text(done, wanted)
    return python


def torch_pin(constraints: str) -> str:
    """The line of a constraints file that pins torch, so that both programs compute with the same one."""
    (pin,) = re.findall(r"^torch==\S+", constraints, re.MULTILINE)
    return str(pin)
