"""What is claimed of samplers, asked on small testbeds beside uniform, stratified and permuted controls.

`python -m benchmarks.samplers` measures and writes docs/samplers.md. Arms, cells and intervals are those of
`benchmarks.learning`; each file here has a few arms beside the claims that are made of them.
"""
