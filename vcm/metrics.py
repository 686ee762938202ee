"""Figures of merit: PSNR, Dice intervals, distances between sets of volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BOOTSTRAP_RESAMPLES = 2000


def psnr(found: NDArray, truth: NDArray, where: NDArray[np.bool_] | None = None) -> float:
    """Return the peak signal-to-noise ratio in dB of a volume in [0, 1], over all voxels or those of a mask."""
    squared = (np.asarray(found, np.float64) - np.asarray(truth, np.float64)) ** 2
    error = squared.mean() if where is None else squared[where].mean()
    return float(-10 * np.log10(max(error, 1e-12)))


def measure_band_energy(volume: NDArray) -> float:
    """Return the energy of a volume (X, Y, Z) in the upper half of its band: frequencies above half of Nyquist's."""
    axes = [np.fft.fftfreq(n) * 2 for n in volume.shape]
    frequency = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    power = np.abs(np.fft.fftn(volume)) ** 2
    return float(power[(frequency > 0.5) & (frequency < 1)].sum())


def head_mask(volume: NDArray) -> NDArray[np.bool_]:
    """Return where the head is in a volume (X, Y, Z) in [0, 1]: what encloses the voxels brighter than the air."""
    bright = ndimage.gaussian_filter(np.asarray(volume, np.float32), 1.0) > 0.12
    closed = ndimage.binary_closing(bright, iterations=3)
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(closed)
    return filled


def largest_diameter_mm(mask: NDArray[np.bool_], spacing_mm: float) -> float:
    """Return the diameter of the sphere with the volume of the mask's largest connected part; 0 for an empty mask."""
    parts, count = ndimage.label(mask)
    if count == 0:
        return 0.0
    voxels = np.bincount(parts.ravel())[1:].max()
    return float((6 * voxels / np.pi) ** (1 / 3) * spacing_mm)


class Estimate(TypedDict):
    """A figure, its 95 % bootstrap interval, and of how many values it is; None where there are too few."""

    value: float | None
    interval: list[float] | None
    count: int


def estimate(statistic: Callable[..., float], *columns: Sequence[float], seed: int = 0) -> Estimate:
    """Return a statistic of paired columns, with the percentiles of what it is on rows drawn with replacement.

    Args:
        statistic: of as many arrays (N,) as there are columns; what is not finite counts as no value.
    """
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    count = len(arrays[0])
    random = np.random.default_rng(seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(*arrays)) if count else np.nan
        draws = random.integers(max(count, 1), size=(BOOTSTRAP_RESAMPLES if count > 1 else 0, count))
        resampled = np.array([statistic(*(array[rows] for array in arrays)) for rows in draws])
    return _estimate(value, resampled, count)


def summarize(values: Sequence[float | None], seed: int = 0) -> Estimate:
    """Return the mean of the values that exist, as `estimate` does."""
    return estimate(np.mean, [value for value in values if value is not None], seed=seed)


def ratio_of_means(numerators: NDArray, denominators: NDArray) -> float:
    """Return the mean of the one over the mean of the other; NaN where that is 0."""
    return float(np.mean(numerators) / np.mean(denominators)) if np.any(denominators) else float("nan")


def correlation(asked: NDArray, measured: NDArray) -> float:
    """Return Pearson's correlation; NaN where one of the two does not vary."""
    varies = np.ptp(asked) > 0 and np.ptp(measured) > 0
    return float(np.corrcoef(asked, measured)[0, 1]) if varies else float("nan")


def slope(asked: NDArray, measured: NDArray) -> float:
    """Return the slope of the least-squares line of `measured` over `asked`; NaN where that does not vary."""
    centered = asked - asked.mean()
    return float(centered @ measured / (centered @ centered)) if np.ptp(asked) > 0 else float("nan")


def cubic_mmd(first: NDArray, second: NDArray, seed: int = 0) -> Estimate:
    """Return the unbiased squared maximum mean discrepancy of two sets of features, (N, F) and (M, F).

    The kernel is (x . y / F + 1)^3, as in the kernel inception distance (Binkowski et al., ICLR 2018). Features are
    standardised by the second set's mean and deviation first. It is about 0, and may be negative, for equal sets.

    Raises:
        ValueError: a set has fewer than two members.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"Each set needs at least two members, got {len(first)} and {len(second)}.")
    mean, deviation = second.mean(0), second.std(0) + 1e-6
    x, y = ((features - mean) / deviation for features in (first, second))
    grams = [(a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]

    def discrepancy(x_weights: NDArray, y_weights: NDArray) -> float:
        within = 0.0
        for gram, weights in ((grams[0], x_weights), (grams[1], y_weights)):
            # A member drawn twice is no pair: only pairs of different members count.
            others = weights.sum() ** 2 - (weights**2).sum()
            within += (weights @ gram @ weights - weights**2 @ np.diag(gram)) / others if others else np.nan
        return float(within - 2 * x_weights @ grams[2] @ y_weights / (x_weights.sum() * y_weights.sum()))

    random = np.random.default_rng(seed)
    draws = [
        [np.bincount(random.integers(n, size=n), minlength=n).astype(float) for n in (len(x), len(y))]
        for _ in range(BOOTSTRAP_RESAMPLES)
    ]
    resampled = np.array([discrepancy(*weights) for weights in draws])
    return _estimate(discrepancy(np.ones(len(x)), np.ones(len(y))), resampled, min(len(x), len(y)))


def _estimate(value: float, resampled: NDArray, count: int) -> Estimate:
    known = resampled[np.isfinite(resampled)]
    if not np.isfinite(value):
        return {"value": None, "interval": None, "count": count}
    if known.size == 0 or np.ptp(known) == 0:
        return {"value": value, "interval": None, "count": count}
    low, high = np.percentile(known, [2.5, 97.5])
    return {"value": value, "interval": [float(low), float(high)], "count": count}


def mean_ms_ssim(volumes: Sequence[NDArray], seed: int = 0, pairs: int = 32) -> list[float]:
    """Return the multi-scale SSIM of randomly drawn pairs of volumes (X, Y, Z), none twice: lower is more diverse."""
    import torch
    from monai.metrics import MultiScaleSSIMMetric

    # The default kernel of 11 does not fit into 80 voxels after four halvings.
    metric = MultiScaleSSIMMetric(spatial_dims=3, data_range=1.0, kernel_size=5)
    random = np.random.default_rng(seed)
    possible = list(combinations(range(len(volumes)), 2))
    scores = []
    for chosen in random.choice(len(possible), min(pairs, len(possible)), replace=False):
        first, second = possible[chosen]
        tensors = [torch.from_numpy(np.asarray(volumes[i], np.float32))[None, None] for i in (first, second)]
        scores.append(float(torch.as_tensor(metric(*tensors)).mean()))
    return scores


def ssim(found: NDArray, truth: NDArray, where: NDArray[np.bool_]) -> float:
    """Return the structural similarity of two volumes (X, Y, Z) in [0, 1], its mean over the voxels of a mask.

    In windows of 7 voxels, as in Wang et al., IEEE TIP 2004.
    """
    from skimage.metrics import structural_similarity

    x, y = np.asarray(found, np.float64), np.asarray(truth, np.float64)
    _, similarity = structural_similarity(x, y, win_size=7, data_range=1.0, full=True)
    return float(similarity[where].mean())
