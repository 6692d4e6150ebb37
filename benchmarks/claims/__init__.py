"""What the papers say, asked again on the testbeds: `python -m benchmarks.claims` writes docs/claims.md.

`worlds` is one trained testbed with everything merged and asked in memory; `arms` are methods with the settings tried;
`rows` are the claims, put by `measuring`; `verdict` turns paired outcomes into words by rules that were fixed first; `page` writes it down.
"""
