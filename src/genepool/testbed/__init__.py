"""Small real models with real skills, trained on the spot: for trying and testing everything offline.

`build` makes a base, specialists and task files in one folder; importing this package needs neither torch nor
transformers. The last room before the command line: it uses no other package of genepool.
"""

from __future__ import annotations

from genepool.testbed.builder import build
from genepool.testbed.folder import Testbed
from genepool.testbed.schedule import REGIMES
from genepool.testbed.skills import DEFAULT_SKILLS, PRIMITIVES, SKILLS, StringTask

__all__ = ["DEFAULT_SKILLS", "PRIMITIVES", "REGIMES", "SKILLS", "StringTask", "Testbed", "build"]
