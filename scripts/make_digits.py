"""Make rbd_ipu/data/digits.npz anew from scikit-learn's copy of the UCI digits.

    pip install scikit-learn && python scripts/make_digits.py [FILE]

The same arrays give the same bytes, as long as zlib is the same. Source and licence:
rbd_ipu/data/NOTICE.md.
"""

import io
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TARGET = Path(__file__).resolve().parents[1] / "rbd_ipu" / "data" / "digits.npz"
LIMIT = 150_000  # bytes: the package stays small


def main(target: Path) -> None:
    """Write the file, or leave with a message if scikit-learn's data are not what they were."""
    raw = load_digits()
    images = raw.images.astype(np.uint8)[..., np.newaxis]
    if not (images[..., 0] == raw.images).all() or images.max() != 16:
        raise SystemExit("scikit-learn's digits are not whole numbers from 0 to 16: nothing written")
    packed = io.BytesIO()
    np.savez_compressed(packed, images=images, labels=raw.target.astype(np.uint8))
    size = len(packed.getvalue())
    if size > LIMIT:
        raise SystemExit(f"packed they take {size} bytes, more than {LIMIT}: nothing written")
    target.write_bytes(packed.getvalue())
    print(f"{target}: {len(images)} images, {size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
