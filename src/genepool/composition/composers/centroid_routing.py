"""Whole specialists by the nearest centroid: the simplest router, which every other one has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.composition.composer import register
from genepool.composition.routing.specialists import SpecialistRouting

if TYPE_CHECKING:
    import numpy as np

    from genepool.composition.routing.nearest_means import NearestMeans


@register(
    "centroid_routing",
    source="the nearest centroid; abstention by conformal prediction, Vovk et al. 2005",
    when="The inputs of each skill look alike, there are only a few of them, and whole skills may be kept at hand.",
    needs="inputs",
    out="module",
    cost="one pass of the base over the inputs; when asked, one pass more, and each prompt is answered by one model",
    skills=(1, None),
)
class CentroidRouting(SpecialistRouting):
    """See `SpecialistRouting`; the distance is the plain one."""

    whitened = False

    def means(self, features: np.ndarray, classes: np.ndarray) -> NearestMeans:
        from genepool.composition.routing.nearest_means import nearest_centroid

        return nearest_centroid(features, classes)
