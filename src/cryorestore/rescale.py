"""Rescaling by a Fourier crop that keeps grey values, as RELION's, and the way back."""

import numpy as np
from numpy.typing import NDArray

_SAMPLED = 8
"""Every so many rows and columns are enough to know how far the grey values are from 0."""


def fourier_crop(images: NDArray[np.float32], box_size: int, *, overwrite: bool = False) -> NDArray[np.float32]:
    """Rescale images (..., box, box) to a smaller box by keeping the low frequencies; both boxes are even.

    The transform is cropped along each axis as soon as it is made. A constant near its mean is taken off each image before and put back after,
    so that single precision is enough however far the grey values are from 0. Of the two rows that meet at the new Nyquist frequency, RELION
    keeps the one with positive ky. With `overwrite`, `images` are not kept.
    """
    from_box = images.shape[-1]
    if box_size == from_box:
        return images
    import scipy.fft  # imported here: it takes long, and most data sets keep their size

    half = box_size // 2
    levels = images[..., ::_SAMPLED, ::_SAMPLED].mean((-2, -1), keepdims=True)
    ft = scipy.fft.rfft(np.subtract(images, levels, out=images if overwrite else None), axis=-1, norm="forward")[..., : half + 1]
    ft = scipy.fft.fft(ft, axis=-2, norm="forward")
    rows = np.concatenate([ft[..., : half + 1, :], ft[..., from_box - half + 1 :, :]], axis=-2)
    cropped: NDArray[np.float32] = scipy.fft.irfft2(rows, s=(box_size, box_size), norm="forward", overwrite_x=True)
    cropped += levels
    return cropped


def fourier_pad(images: NDArray[np.float32], box_size: int) -> NDArray[np.float32]:
    """Rescale images (..., box, box) to a larger box by adding frequencies that hold nothing; both boxes are even.

    Grey values stay, as in `fourier_crop`. The Nyquist frequency of the smaller box, of whose two signs it holds the sum, is left out.
    """
    from_box = images.shape[-1]
    if box_size == from_box:
        return images
    import scipy.fft

    half = from_box // 2
    levels = images.mean((-2, -1), keepdims=True)
    ft = scipy.fft.rfft2(images - levels, norm="forward")
    padded = np.zeros((*images.shape[:-2], box_size, box_size // 2 + 1), ft.dtype)
    padded[..., :half, :half] = ft[..., :half, :half]
    padded[..., 1 - half :, :half] = ft[..., 1 - half :, :half]
    enlarged = scipy.fft.irfft2(padded, s=(box_size, box_size), norm="forward", overwrite_x=True)
    return np.asarray(enlarged + levels, np.float32)
