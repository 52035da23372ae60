"""Run by the Python of another environment, which has the program but not this library: images come in on standard input, restored ones go out.

usage: python peer_worker.py topaz|bm3d
The first array that comes in is the noise power per shell; the first that goes out is empty and says that the program is ready. Then one goes out
for each that comes in, until the input ends.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[Any]

_WHITE = 1.1
"""A spectrum whose greatest power is below this times its least is taken for white: BM3D is then many times faster."""


def topaz(noise_power: Images) -> Callable[[Images], Images]:
    """Topaz-Denoise's U-Net with the weights that its wheel ships (Bepler et al. 2020); images of background sigma 1, in and out."""
    import topaz as package
    import torch
    from topaz.denoising.models import UDenoiseNet

    torch.set_num_threads(1)
    weights = Path(package.__file__).parent / "pretrained/denoise/unet_L2_v0.2.2.sav"
    network = UDenoiseNet(base_width=11, top_width=5)
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    network.eval()

    @torch.inference_mode()
    def restore(images: Images) -> Images:
        restored: Images = network(torch.from_numpy(images)[:, None])[:, 0].numpy()
        return restored

    return restore


def bm3d(noise_power: Images) -> Callable[[Images], Images]:
    """BM3D for noise of a given spectrum (Mäkinen et al. 2020); its licence allows no commercial use."""
    vars(np).setdefault("trapz", np.trapezoid)  # bm3d 4.0.3 asks for the name that NumPy 2.4 dropped
    import bm3d as package

    box = 2 * (len(noise_power) - 1)
    frequency = np.fft.fftfreq(box, 1 / box)
    shell = np.minimum(np.floor(np.hypot(frequency[:, None], frequency) + 0.5).astype(int), box // 2)
    white = noise_power.max() < _WHITE * noise_power.min()
    noise = float(np.sqrt(noise_power.mean())) if white else (noise_power[shell] * box**2).astype(np.float32)

    def restore(images: Images) -> Images:
        return np.stack([package.bm3d(image, noise) for image in images]).astype(np.float32)

    return restore


def receive(pipe: IO[bytes]) -> Images | None:
    """The next array: eight bytes that say how long it is, then an .npy file; None at the end."""
    length = int.from_bytes(pipe.read(8), "little")
    if length == 0:
        return None
    array: Images = np.load(io.BytesIO(pipe.read(length)), allow_pickle=False)
    return array


def send(pipe: IO[bytes], array: Images) -> None:
    """Write an array so that `receive` reads it."""
    file = io.BytesIO()
    np.save(file, array)
    pipe.write(len(file.getvalue()).to_bytes(8, "little") + file.getvalue())
    pipe.flush()


def main() -> None:
    """Serve one program."""
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    noise_power = receive(incoming)
    if noise_power is None:
        return
    restore = {"topaz": topaz, "bm3d": bm3d}[sys.argv[1]](noise_power)
    send(outgoing, np.empty(0, np.float32))
    while (images := receive(incoming)) is not None:
        send(outgoing, restore(images))


if __name__ == "__main__":
    main()
