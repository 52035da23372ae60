import pytest
import torch

from cryorestore.diffusion.process import Frame
from cryorestore.errors import CryorestoreError
from cryorestore.postprocess import WIDTHS, PostprocessConfig, PostProcessor, PostprocessUnet


def images(box_size, seed=1):
    return torch.randn(3, box_size, box_size, generator=torch.Generator().manual_seed(seed))


def processor(network, box_size):
    frame = Frame(("noisy",), (1.0,), scale=0.5)
    return PostProcessor(network, network.config, frame, restored_scale=0.2, box_size=box_size, device=torch.device("cpu"), precision="float32")


@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize("box_size", [16, 22])
def test_an_untrained_network_changes_nothing(size, box_size):
    restored = images(box_size, seed=2)
    network = PostprocessUnet(PostprocessConfig(size, condition_channels=1))
    assert torch.equal(processor(network, box_size).apply(restored, {"noisy": images(box_size)}), restored)


def test_the_correction_is_scaled_and_added():
    network = PostprocessUnet(PostprocessConfig("tiny", condition_channels=1))
    torch.nn.init.constant_(network.leave.bias, 2.0)
    restored = images(16, seed=2)
    assert torch.allclose(processor(network, 16).apply(restored, {"noisy": images(16)}), restored + 0.5 * 2.0)


def test_what_lies_outside_the_field_of_view_is_not_seen():
    """A norm-free network sees a neighbourhood alone: the far corner of a large box does not change with this one."""
    torch.manual_seed(1)
    network = PostprocessUnet(PostprocessConfig("tiny", condition_channels=1))
    torch.nn.init.normal_(network.leave.weight)
    noisy = images(128)
    changed = noisy.clone()
    changed[:, :8, :8] += 1.0
    before, after = (processor(network, 128).apply(images(128, seed=2), {"noisy": image}) for image in (noisy, changed))
    assert torch.allclose(before[:, 96:, 96:], after[:, 96:, 96:], atol=1e-5)
    assert not torch.allclose(before[:, :8, :8], after[:, :8, :8], atol=1e-3)


def test_an_unknown_size_is_refused():
    with pytest.raises(CryorestoreError, match="'huge' is unknown"):
        PostprocessConfig("huge", condition_channels=1)
