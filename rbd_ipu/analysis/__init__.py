"""What random directions see of a network: pure functions from (model, loss, batch, directions) to NumPy arrays.

====================  =================================================================
``correlation``       of the update with the gradient, against d (Section 4.5, Fig. B.7)
``landscape``         the loss along random directions (Fig. 2)
``orthogonality``     how orthogonal random directions are (Fig. B.8)
``curvature``         second derivatives along directions
``coordinates``       statistics of coordinates and weights
``surface``           the loss as a function of the flat parameter vector, which the others share
====================  =================================================================

Nothing is drawn or written here, and every model is left as it was.
"""

from rbd_ipu.analysis.loss import (
    Curvature,
    Landscape,
    Surface,
    curvature,
    curvature_by_differences,
    landscape,
    random_landscape,
    subspace_hessian,
)
from rbd_ipu.analysis.subspaces import (
    Correlation,
    Orthogonality,
    Summary,
    coordinates,
    correlation,
    expected_abs_cosine,
    expected_cosine,
    gradient_correlation,
    orthogonality,
    summary,
    weights,
)

__all__ = [
    "Correlation",
    "Curvature",
    "Landscape",
    "Orthogonality",
    "Summary",
    "Surface",
    "coordinates",
    "correlation",
    "curvature",
    "curvature_by_differences",
    "expected_abs_cosine",
    "expected_cosine",
    "gradient_correlation",
    "landscape",
    "orthogonality",
    "random_landscape",
    "subspace_hessian",
    "summary",
    "weights",
]
