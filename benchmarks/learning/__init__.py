"""What is claimed of learning, on the small testbed of strings: `python -m benchmarks.learning` measures and writes.

Arms are trainings with what they cost, kept as cells: marks of single test examples, optimiser steps, generated tokens
and labels. Claims and the page are computed from the cells. Uses the testbeds and verdicts of the other claims.
"""
