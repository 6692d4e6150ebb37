"""Composition measured: `python -m benchmarks.composition`. What it costs, and how good it is with how many examples.

`cells`: what was measured, kept example by example. `arms`: what is measured. `routed`: whole specialists behind a
router, which every composition has to beat. `beside`: modules beside frozen models. `curves`: the grid of cells,
measured in pieces. `claims`: the papers' claims, with rules that were written first. `tables`: the page,
docs/composition.md. `memory`: what a step takes, and `peer` the same of fusion_bench. `large`: a fit of a model of 1.2
billion entries.
"""
