"""The paper's networks, for images of any size.

Importing this package does not import TensorFlow; building a network does.
"""

from rbd_ipu.models.build import NETWORKS, build

__all__ = ["NETWORKS", "build"]
