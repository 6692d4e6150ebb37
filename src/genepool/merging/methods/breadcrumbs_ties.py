"""Model Breadcrumbs' trim (arXiv:2312.06795) with the election of TIES (arXiv:2306.01708) in place of a plain sum."""

from __future__ import annotations

from genepool.merging.methods.breadcrumbs import TRIM, Breadcrumbs
from genepool.merging.methods.ties import AVERAGE, VOTE_WEIGHT
from genepool.merging.parameters import Parameter
from genepool.merging.registry import register


@register
class BreadcrumbsTies(Breadcrumbs):
    """Average the entries of medium size that agree with the elected sign."""

    name = "breadcrumbs_ties"
    source = "Model Breadcrumbs, arXiv:2312.06795, with the election of TIES, arXiv:2306.01708"
    when = "As Breadcrumbs, when the skills also conflict in sign."
    formula = "th0 + lambda * mean over agreeing i of w_i m_i t_i,  m_i as in breadcrumbs"
    elects = True
    parameters = (VOTE_WEIGHT, *TRIM, Parameter("lambda", 1.0, "Factor of the merged task vector."), AVERAGE)
