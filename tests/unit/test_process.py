import pytest
import torch

from cryorestore.diffusion.process import Frame, loss_value, predicted_clean, q_sample, target
from cryorestore.diffusion.schedule import NoiseSchedule
from cryorestore.errors import CryorestoreError

LEVELS = torch.cat([NoiseSchedule().subset(10).float(), torch.zeros(1)])


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("gamma", LEVELS.tolist())
def test_the_noisy_variable_has_the_mean_and_variance_of_its_level(gamma):
    y0 = torch.full((16, 32, 32), 3.0)
    y = q_sample(y0, torch.full((16,), gamma), randn(16, 32, 32))
    assert float(y.mean()) == pytest.approx(3 * gamma**0.5, abs=0.03)
    assert float(y.var()) == pytest.approx(1 - gamma, abs=0.04)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_perfect_prediction_gives_the_clean_variable_back(prediction):
    y0, noise, gamma = randn(10, 8, 8), randn(10, 8, 8, seed=2), LEVELS[:10]
    y = q_sample(y0, gamma, noise)
    clean = predicted_clean(prediction, target(prediction, y0, gamma, noise), y, gamma)
    assert torch.allclose(clean, y0, atol=2e-4)


def test_v_at_the_highest_level_is_minus_the_clean_variable():
    y0, none = randn(2, 4, 4), torch.zeros(2)
    assert torch.equal(target("v", y0, none, randn(2, 4, 4, seed=2)), -y0)
    assert torch.equal(predicted_clean("v", -y0, torch.zeros(2, 4, 4), none), y0)


def test_epsilon_has_no_estimate_at_the_highest_level():
    with pytest.raises(CryorestoreError, match="epsilon"):
        predicted_clean("epsilon", torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), torch.zeros(1))


def test_with_a_mean_the_difference_to_it_is_diffused():
    images = {"noisy": torch.full((1, 2, 2), 6.0), "mean": torch.full((1, 2, 2), 1.0)}
    clean = torch.full((1, 2, 2), 2.0)
    frame = Frame(("noisy", "mean"), (3.0, 0.5), scale=0.25)
    assert torch.equal(frame.to_variable(clean, images), torch.full((1, 2, 2), 4.0))
    assert torch.equal(frame.to_image(torch.zeros(1, 2, 2), images), images["mean"])
    assert frame.inputs(images)[0, :, 0, 0].tolist() == [2.0, 2.0]


def test_without_a_mean_the_image_is_diffused_and_never_clamped():
    frame = Frame(("noisy",), (1.0,), scale=0.1)
    clean = torch.tensor([[[-50.0, 70.0], [0.0, 1.0]]])
    assert torch.allclose(frame.to_image(frame.to_variable(clean, {}), {}), clean)


def test_a_missing_condition_is_named():
    frame = Frame(("noisy", "wiener"), (1.0, 1.0), scale=1.0)
    with pytest.raises(CryorestoreError, match="lacks wiener; it was trained with noisy, wiener"):
        frame.checked({"noisy": torch.zeros(1, 4, 4)}, count=1, box_size=4, device=torch.device("cpu"))


def test_another_box_is_refused():
    frame = Frame(("noisy",), (1.0,), scale=1.0)
    with pytest.raises(CryorestoreError, match=r"\(1, 6, 6\), expected \(1, 4, 4\)"):
        frame.checked({"noisy": torch.zeros(1, 6, 6)}, count=1, box_size=4, device=torch.device("cpu"))


def test_the_two_losses():
    output, wanted = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]]), torch.zeros(1, 2, 2)
    assert float(loss_value(output, wanted, "l2")) == 2.0
    assert float(loss_value(output, wanted, "l1")) == 1.0
