"""What the commands of `genepool outcomes` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LedgerOption = Annotated[Path | None, typer.Option(help="The ledger; $GENEPOOL_LEDGER when absent.")]
