"""Speed, as ratios to a floor or a peer measured in the same run: `python -m benchmarks` prints every table.

What papers claim about merges, asked on the testbeds: `python -m benchmarks.claims`.
"""
