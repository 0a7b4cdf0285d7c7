"""Kind sklearn, the small sets that scikit-learn ships."""

from typing import Literal

import numpy as np

from trainers.sources.rows import Rows, as_float32


def read_sklearn(name: Literal["digits", "iris", "wine", "breast_cancer"]) -> Rows:
    """One of the small sets that scikit-learn ships; digits as images, the others as vectors."""
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")()
    if name == "digits":
        x, scale = bunch.images[..., None].astype(np.uint8), 16.0
    else:
        x, scale = as_float32(bunch.data), 1.0
    source = f"Shipped with scikit-learn {sklearn.__version__}."
    return Rows(name, x, bunch.target, scale, source, [str(text) for text in bunch.target_names])
