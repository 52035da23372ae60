"""Whether another program makes the same map of the same particles."""

import tempfile
from pathlib import Path

import torch

from cryorestore.errors import CryorestoreError
from cryorestore.files import write_json
from cryorestore.fsc import FscCurve, fourier_shell_correlation, read_pair
from cryorestore.io.mrc import read_map
from cryorestore.logs import get_logger
from cryorestore.masks import soft_sphere
from cryorestore.reconstruct.step import PROGRAMS, program_found, reconstruct_map

_RELIABLE = 0.5
"""Shells are compared up to the first where the half's odd and even particles agree less than this."""
_EXPECTED = 0.95


def check_backend(
    *,
    star: str | Path,
    map: str | Path,
    map_odd: str | Path,
    map_even: str | Path,
    agreement: str | Path,
    backend: str,
    mask_radius: float,
    mask_edge: float,
    symmetry: str = "C1",
    program: str = "",
    threads: int = 1,
) -> None:
    """Reconstruct the particles of a half once more, with another backend, and correlate both maps where the half agrees with itself.

    Parameters
    ----------
    star
        Particles of one half, with poses.
    map, map_odd, map_even
        Their maps, as they were made before.
    agreement
        Output (JSON): `agreement`, the smallest correlation of both maps in the shells compared; null, with a `reason`, where the program is missing.
    backend
        The other backend: `cryodrgn`, `relion` or `native`.
    mask_radius, mask_edge
        Soft sphere round the particle, angstrom.
    symmetry
        Point group, as RELION names it.
    program
        Path or name of the other backend's program.
    threads
        Threads of the backend.

    Raises
    ------
    CryorestoreError
        If the other backend fails, or its map has another box.
    """
    if not program_found(backend, program):
        reason = f"{backend} is not installed ({program or PROGRAMS[backend]}): nothing was compared"
        get_logger().warning("%s", reason)
        write_json(agreement, {"backend": backend, "agreement": None, "reason": reason})
        return
    odd, even, pixel_size = read_pair(map_odd, map_even)
    sphere = soft_sphere(odd.shape[-1], mask_radius / pixel_size, mask_edge / pixel_size)
    with tempfile.TemporaryDirectory(dir=Path(agreement).parent, prefix=".check-") as folder:
        others = {name: Path(folder) / f"{name}.mrc" for name in ("map", "map_odd", "map_even")}
        reconstruct_map(star=star, **others, backend=backend, symmetry=symmetry, program=program, threads=threads)
        theirs, ours = (torch.from_numpy(read_map(path)[0]) for path in (others["map"], map))
    itself = fourier_shell_correlation(odd * sphere, even * sphere, pixel_size=pixel_size)
    both = fourier_shell_correlation(ours * sphere, theirs * sphere, pixel_size=pixel_size)
    last = _last_reliable_shell(itself)
    if last < 1:
        raise CryorestoreError(f"{map_odd}, {map_even}: they do not agree in shell 1, so nothing can be compared; look at poses and CTF")
    smallest = float(both.correlation[1 : last + 1].min())
    if smallest < _EXPECTED:
        get_logger().warning("%s and the map of %s correlate by %.3f only, expected %.2f: one of them is wrong", map, backend, smallest, _EXPECTED)
    content = {"backend": backend, "agreement": smallest, "reason": None, "resolution": 1 / float(both.spatial_frequency[last])}
    write_json(agreement, content | {"correlation": both.correlation.tolist()})


def _last_reliable_shell(curve: FscCurve) -> int:
    below = torch.nonzero(curve.correlation[1:] < _RELIABLE).flatten()
    return int(below[0]) if below.numel() else len(curve.correlation) - 1
