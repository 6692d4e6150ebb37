"""How far every method and strategy is from what it says it is: `python -m benchmarks.faithful --update`."""
