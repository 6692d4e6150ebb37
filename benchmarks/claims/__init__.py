"""What the papers say, asked again on the testbeds: `python -m benchmarks.claims` writes docs/claims.md.

`worlds`: a trained testbed, merged and asked in memory. `arms`: methods and the settings tried. `rows`: the claims, put
by `measuring`. `verdict`: from paired outcomes to words, by rules that were fixed first. `page`: written down.
"""
