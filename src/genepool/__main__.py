"""`python -m genepool`: the command line."""

from genepool.cli.main import main

main()
