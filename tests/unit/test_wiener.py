import numpy as np
import pytest
import torch

from cryorestore.baselines.wiener import estimate_signal_power, wiener_filter
from cryorestore.ctf import CtfParameters, ctf_2d
from cryorestore.errors import CryorestoreError
from cryorestore.fourier import spread_shells, to_fourier, to_real
from cryorestore.masks import soft_disc

BOX, COUNT = 32, 600


@pytest.fixture(scope="module")
def spectra():
    shells = torch.arange(BOX // 2 + 1)
    return 4.0 * torch.exp(-shells / 4.0), 1.0 + 0.5 * torch.exp(-shells / 8.0)


@pytest.fixture(scope="module")
def stack(spectra):
    """Random images with known spectra: (observed, CTF-applied clean, CTF)."""
    signal_power, noise_power = spectra
    generator = torch.Generator().manual_seed(1)

    def coloured(power):
        return to_real(to_fourier(torch.randn(COUNT, BOX, BOX, generator=generator)) * spread_shells(power, BOX).sqrt())

    ones = np.ones(COUNT)
    parameters = CtfParameters(
        defocus_u=np.linspace(8e3, 3e4, COUNT),
        defocus_v=np.linspace(8e3, 3e4, COUNT),
        defocus_angle=0 * ones,
        voltage=300 * ones,
        spherical_aberration=2.7 * ones,
        amplitude_contrast=0.1 * ones,
        phase_shift=0 * ones,
        b_factor=0 * ones,
        scale=ones,
    )
    ctf = ctf_2d(parameters, box_size=BOX, pixel_size=4.0)
    clean = to_real(to_fourier(coloured(signal_power)) * ctf)
    return clean + coloured(noise_power), clean, ctf


def test_the_signal_spectrum_is_recovered_from_the_data(stack, spectra):
    observed, _, ctf = stack
    signal_power, noise_power = spectra
    estimate = estimate_signal_power(zip(observed.split(100), ctf.split(100), strict=True), noise_power=noise_power)
    assert torch.allclose(estimate[2:9], signal_power[2:9], rtol=0.12)
    assert float(estimate.min()) >= 0


def test_the_error_is_that_of_theory(stack, spectra):
    observed, clean, ctf = stack
    signal_power, noise_power = spectra
    filtered = wiener_filter(observed, ctf, signal_power=signal_power, noise_power=noise_power)
    signal, noise = ctf.square() * spread_shells(signal_power, BOX), spread_shells(noise_power, BOX)
    expected = signal * noise / (signal + noise)
    weights = torch.full((BOX // 2 + 1,), 2.0)
    weights[[0, -1]] = 1.0
    assert float((filtered - clean).square().mean()) == pytest.approx(float((expected * weights).sum((-2, -1)).mean()) / BOX**2, rel=0.02)


def test_without_noise_the_image_comes_back(stack, spectra):
    _, clean, ctf = stack
    filtered = wiener_filter(clean[:4], ctf[:4], signal_power=spectra[0], noise_power=torch.full_like(spectra[1], 1e-12))
    assert torch.allclose(filtered, clean[:4], atol=1e-3)


def test_the_mask_clears_the_corners(stack, spectra):
    observed, _, ctf = stack
    mask = soft_disc(BOX, 8.0, 2.0)
    filtered = wiener_filter(observed[:4], ctf[:4], signal_power=spectra[0], noise_power=spectra[1], mask=mask)
    assert float(filtered[:, mask == 0].abs().max()) == 0


def test_spectra_of_another_box_are_refused(stack):
    observed, _, ctf = stack
    with pytest.raises(CryorestoreError, match="9 shells, expected 17"):
        estimate_signal_power([(observed, ctf)], noise_power=torch.ones(9))


def test_an_empty_half_is_refused():
    with pytest.raises(CryorestoreError, match="empty"):
        estimate_signal_power([], noise_power=torch.ones(17))
