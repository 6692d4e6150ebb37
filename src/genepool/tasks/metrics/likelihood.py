"""The metric `likelihood`: how likely the answer is, as the geometric mean over its tokens. Perplexity is 1 over it."""

from genepool.tasks.metrics import Metric, register

register(Metric("likelihood", "1", needs="likelihood"))
