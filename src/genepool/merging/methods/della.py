"""DELLA with its election of signs (Deep et al., arXiv:2406.11617): drop, elect, fuse."""

from __future__ import annotations

from genepool.merging.methods.della_linear import DROP, LAMBDA, DellaLinear
from genepool.merging.methods.ties import AVERAGE, VOTE_WEIGHT
from genepool.merging.registry import register


@register
class Della(DellaLinear):
    """Drop small entries more often than large ones, then average the entries that agree in sign."""

    name = "della"
    when = "As DARE with TIES: skills that conflict in sign, where large changes matter more than small ones."
    formula = "th0 + lambda * mean over agreeing i of w_i m_i t_i / p_i,  m_i and p_i as in della_linear"
    elects = True
    parameters = (VOTE_WEIGHT, *DROP, LAMBDA, AVERAGE)
