"""The default data set: the handwritten digits of scikit-learn, which need no network."""

from __future__ import annotations

import numpy as np

from actratio.data.dataset import HELD_OUT_SHARE, Dataset

_MAX_PIXEL = 16.0


def load_digits() -> Dataset:
    """Load 1,797 images of 8×8 pixels, scaled to [0, 1].

    A fifth of the images is held out, stratified by label. The split is the same every time.
    """
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    pixels, labels = load(return_X_y=True)
    scaled = (pixels / _MAX_PIXEL).astype(np.float32)
    x_train, x_val, y_train, y_val = train_test_split(
        scaled, labels.astype(np.int64), test_size=HELD_OUT_SHARE, random_state=0, stratify=labels
    )
    return Dataset("digits", x_train, y_train, x_val, y_val, 10, "scikit-learn's load_digits")
