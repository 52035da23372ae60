"""The classical restorers against what can be worked out."""

import pytest
import torch

from cryorestore.baselines.covariance import CovarianceFilter, from_ring_amplitudes, ring_amplitudes, shrunk_eigenvalues
from cryorestore.baselines.low_pass import cutoff_shell, low_pass
from cryorestore.baselines.wiener import estimate_signal_power, wiener_filter
from cryorestore.errors import CryorestoreError
from helpers import BOX, simulate_particles


def wave(cycles, box=BOX):
    return torch.cos(2 * torch.pi * cycles / box * (torch.arange(box) - box // 2)).expand(box, box)


def test_a_low_pass_keeps_waves_below_and_removes_waves_above():
    assert torch.allclose(low_pass(wave(3), shell=6), wave(3), atol=1e-5)
    assert float(low_pass(wave(8), shell=6).abs().max()) < 1e-5
    assert torch.allclose(low_pass(wave(6), shell=6), 0.5 * wave(6), atol=1e-5)


def test_the_cutoff_is_where_the_signal_after_the_ctf_falls_below_the_noise():
    signal = torch.tensor([0.0, 8.0, 4.0, 2.2, 1.8, 0.1])
    assert cutoff_shell(signal, torch.ones(6)) == 4
    assert cutoff_shell(signal * 100, torch.ones(6)) == 5


def test_the_ring_basis_is_orthonormal_and_holds_what_lies_inside_the_particle():
    noise = torch.randn(400, BOX, BOX, generator=torch.Generator().manual_seed(1))
    powers = torch.cat([values.abs().square().mean(0) for values in ring_amplitudes(noise)[1:]])
    assert float(powers.mean()) == pytest.approx(1.0, abs=0.02)
    clean = simulate_particles(4, sigma=0.0, shift=0.0)["clean"]
    clean = clean - clean.mean((1, 2), keepdim=True)
    back = from_ring_amplitudes(ring_amplitudes(clean), BOX)
    assert float((back - clean).square().mean()) < 0.03 * float(clean.square().mean())


def test_turning_an_image_changes_the_phases_of_its_amplitudes_alone():
    image = simulate_particles(1, sigma=0.0)["clean"]
    turned = torch.rot90(image, 1, (1, 2)).roll(1, 1)  # about the pixel box // 2
    for before, after in zip(ring_amplitudes(image)[:12], ring_amplitudes(turned)[:12], strict=True):
        assert torch.allclose(before.abs(), after.abs(), atol=1e-3 * float(before.abs().max()))


def test_shrinkage_removes_what_noise_alone_makes():
    assert shrunk_eigenvalues(torch.tensor([0.2, -0.1]), 0.1).tolist() == [0.0, 0.0]
    # without uncertainty nothing is shrunk
    assert shrunk_eigenvalues(torch.tensor([0.5, 3.0]), 1e-9).tolist() == pytest.approx([0.5, 3.0], rel=1e-3)


def test_the_covariance_filter_beats_the_wiener_filter():
    data = simulate_particles(600, sigma=1.5)
    noise_power = torch.full((BOX // 2 + 1,), 1.5**2)
    restore = CovarianceFilter([(data["images"], data["ctf"])], noise_power=noise_power)
    images, ctf, clean = data["images"][:100], data["ctf"][:100], data["clean"][:100]
    signal_power = estimate_signal_power([(data["images"], data["ctf"])], noise_power=noise_power)
    wiener = wiener_filter(images, ctf, signal_power=signal_power, noise_power=noise_power)
    error, wiener_error = ((restored - clean).square().mean() for restored in (restore(images, ctf), wiener))
    assert float(error) < 0.75 * float(wiener_error)


def test_a_covariance_of_nothing_is_an_error():
    with pytest.raises(CryorestoreError, match="half-set is empty"):
        CovarianceFilter([], noise_power=torch.ones(BOX // 2 + 1))
