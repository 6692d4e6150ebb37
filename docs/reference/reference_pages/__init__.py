"""The generated pages of the reference, a file for each kind; `generate.py` writes them."""

NOTE = "<!-- Written by docs/reference/generate.py from the code; edit the code and run `make docs`. -->"
