import pytest
import torch
from diffusers.models.attention_processor import Attention

from cryorestore.diffusion.network import SIZES, ConditionalUnet, NetworkConfig, embedded_level
from cryorestore.diffusion.schedule import NoiseSchedule
from cryorestore.errors import CryorestoreError


@pytest.fixture
def network():
    torch.manual_seed(1)
    network = ConditionalUnet(NetworkConfig("tiny", condition_channels=2, box_size=16)).eval()
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1)
    return network


def inputs(count, box_size):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, box_size, box_size, generator=generator), torch.randn(count, 2, box_size, box_size, generator=generator)


@torch.no_grad()
def test_the_output_varies_over_the_whole_range_of_noise_levels(network):
    y, condition = (image.expand(22, *image.shape[1:]) for image in inputs(1, 16))
    gammas = torch.cat([NoiseSchedule().subset(20)[:-1].float(), NoiseSchedule().gammas[1:2].float(), torch.zeros(1)])
    output = network(y, gammas, condition)
    order = gammas.argsort()
    change = output[order].diff(dim=0).square().mean(dim=(1, 2)).sqrt() / output.std()
    assert float(change.min()) > 1e-3


def test_embedded_levels_stay_in_their_range():
    levels = embedded_level(torch.tensor([1.0, 0.5, 0.0]))
    assert levels.tolist() == pytest.approx([0.0, 1000 * 14 / 26, 1000.0])


@torch.no_grad()
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_an_untrained_network_says_zero(size):
    y, condition = inputs(2, 16)
    output = ConditionalUnet(NetworkConfig(size, condition_channels=2, box_size=16))(y, torch.rand(2), condition)
    assert torch.equal(output, torch.zeros(2, 16, 16))


@torch.no_grad()
@pytest.mark.parametrize("box_size", [18, 22, 40])
def test_boxes_that_the_levels_do_not_divide_are_served(network, box_size):
    y, condition = inputs(2, box_size)
    assert network(y, torch.full((2,), 0.5), condition).shape == (2, box_size, box_size)


@torch.no_grad()
def test_an_image_is_not_touched_by_the_others_in_its_batch(network):
    y, condition = inputs(3, 16)
    gamma = torch.tensor([0.1, 0.5, 0.9])
    alone = network(y[1:2], gamma[1:2], condition[1:2])
    assert torch.allclose(network(y, gamma, condition)[1:2], alone, atol=1e-5)


@pytest.mark.parametrize(("box_size", "level"), [(64, 2), (96, 3), (128, 3)])
def test_attention_sits_at_sixteen_pixels_or_just_below(box_size, level):
    with torch.device("meta"):
        blocks = ConditionalUnet(NetworkConfig("small", condition_channels=5, box_size=box_size)).unet.down_blocks
    assert [any(isinstance(module, Attention) for module in block.modules()) for block in blocks] == [place == level for place in range(4)]


def test_an_unknown_size_is_refused():
    with pytest.raises(CryorestoreError, match=f"choose one of {', '.join(SIZES)}"):
        NetworkConfig("huge", condition_channels=1, box_size=64)
