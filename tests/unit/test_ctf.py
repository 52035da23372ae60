import math

import numpy as np
import pytest

from cryorestore.ctf import CtfParameters, ctf_2d, electron_wavelength


def parameters(**changes):
    values = {
        "defocus_u": 15000.0,
        "defocus_v": 15000.0,
        "defocus_angle": 0.0,
        "voltage": 300.0,
        "spherical_aberration": 2.7,
        "amplitude_contrast": 0.1,
        "phase_shift": 0.0,
        "b_factor": 0.0,
        "scale": 1.0,
    } | changes
    return CtfParameters(**{name: np.array([value]) for name, value in values.items()})


@pytest.mark.parametrize(("voltage", "wavelength"), [(300.0, 0.0196875), (200.0, 0.0250793), (100.0, 0.0370144)])
def test_wavelengths_of_the_textbook(voltage, wavelength):
    assert electron_wavelength(np.array([voltage]))[0] == pytest.approx(wavelength, rel=1e-4)


def test_at_zero_frequency_stands_the_amplitude_contrast():
    assert float(ctf_2d(parameters(amplitude_contrast=0.07), box_size=32, pixel_size=2.0)[0, 0, 0]) == pytest.approx(0.07, abs=1e-6)


def test_one_frequency_by_hand():
    # s = 4 / (32 * 2 A) = 1/16 per A; chi = pi lambda df s^2 - pi/2 Cs lambda^3 s^4, + asin(w)
    wavelength = float(electron_wavelength(np.array([300.0]))[0])
    chi = math.pi * wavelength * 15000 / 256 - 0.5 * math.pi * 2.7e7 * wavelength**3 / 16**4
    assert float(ctf_2d(parameters(), box_size=32, pixel_size=2.0)[0, 0, 4]) == pytest.approx(math.sin(chi + math.asin(0.1)), abs=1e-5)


def test_the_defocus_angle_points_from_x_to_the_axis_of_defocus_u():
    astigmatic = parameters(defocus_u=20000.0, defocus_v=10000.0, defocus_angle=90.0)
    along_y = ctf_2d(astigmatic, box_size=32, pixel_size=2.0)[0, 4, 0]
    assert float(along_y) == pytest.approx(
        float(ctf_2d(parameters(defocus_u=20000.0, defocus_v=20000.0), box_size=32, pixel_size=2.0)[0, 4, 0]), abs=1e-5
    )


def test_a_phase_plate_turns_the_constant_term_up():
    assert float(ctf_2d(parameters(amplitude_contrast=0.0, phase_shift=90.0), box_size=32, pixel_size=2.0)[0, 0, 0]) == pytest.approx(1.0)


def test_envelope_and_scale():
    plain, damped = (ctf_2d(parameters(b_factor=b, scale=s), box_size=32, pixel_size=2.0)[0, 0, 4] for b, s in ((0.0, 1.0), (100.0, 0.5)))
    assert float(damped / plain) == pytest.approx(0.5 * math.exp(-100 / 4 / 256), rel=1e-4)
