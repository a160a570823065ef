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

from rbd_ipu.analysis.coordinates import Summary, coordinates, summary, weights
from rbd_ipu.analysis.correlation import Correlation, correlation, expected_cosine, gradient_correlation
from rbd_ipu.analysis.curvature import Curvature, curvature, curvature_by_differences, subspace_hessian
from rbd_ipu.analysis.landscape import Landscape, landscape, random_landscape
from rbd_ipu.analysis.orthogonality import Orthogonality, expected_abs_cosine, orthogonality
from rbd_ipu.analysis.surface import Surface

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
