"""`python -m genepool`, and what the console script calls: the command line."""

import sys


def main() -> None:
    """Runs the command that was typed. Ctrl-C is one line from the first import on."""
    try:
        from genepool.cli.main import main as command
    except KeyboardInterrupt:
        print("error: interrupted. Nothing was begun.", file=sys.stderr)
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
