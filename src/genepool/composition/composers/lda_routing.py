"""Whole specialists by linear discriminant analysis: the router that every other one has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.composition.composer import register
from genepool.composition.routing.specialists import SpecialistRouting

if TYPE_CHECKING:
    import numpy as np

    from genepool.composition.routing.nearest_means import NearestMeans


@register(
    "lda_routing",
    source="linear discriminant analysis with Ledoit and Wolf's covariance, as scikit-learn has it; abstention by "
    "conformal prediction, Vovk et al. 2005",
    when="It is not known which skill an input needs, one skill at a time is enough, and whole skills may be kept at "
    "hand. Try it before any router that is trained.",
    needs="inputs",
    out="module",
    cost="one pass of the base over the inputs; when asked, one pass more, and each prompt is answered by one model",
    skills=(1, None),
)
class LdaRouting(SpecialistRouting):
    """See `SpecialistRouting`; the distance is that of the covariance within the tasks, which is shrunk."""

    whitened = True

    def means(self, features: np.ndarray, classes: np.ndarray) -> NearestMeans:
        from genepool.composition.routing.nearest_means import linear_discriminant

        return linear_discriminant(features, classes)
