"""`cryorestore restore`: particles in, restored particles out, in one command."""

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from cryorestore.devices import Device, Precision
from cryorestore.errors import CryorestoreError
from cryorestore.general.method import SHIPPED
from cryorestore.general.use import restore_general

FILES = {"restored_stack": "particles.mrcs", "restored_star": "particles.star", "figures": "restoration.json"}
"""What is written into the folder"""


def restore(
    *particles: Path,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    weights: str = SHIPPED,
    deviation: bool = False,
    diameter: float | None = None,
    ctf: Literal["applied", "corrected"] = "applied",
    beyond: Literal["nothing", "raw"] = "nothing",
    whiten: Literal["none", "background"] = "none",
    invert_contrast: Literal["auto", "true", "false"] = "auto",
    pixel_size: float | None = None,
    project_root: Path | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    evidence_threshold: float = 0.5,
    batch_size: Annotated[int, Parameter(name=["--batch-size", "--batch"])] = 64,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: int | None = None,
) -> None:
    """Restore particles of any protein with the weights of the package; see docs/general.md.

    Written into the folder are particles.mrcs (several, with a number, where pixel sizes differ), particles.star, restoration.json and, where asked
    for, deviation.mrcs; each appears whole, at the end, or not at all.

    Parameters
    ----------
    particles
        A STAR file (RELION 3.0, 3.1, 5), or a cryoSPARC .cs with its passthrough files after it.
    out
        Folder of the results.
    weights
        "general", or a file of weights of that kind.
    deviation
        Write the standard deviation of each restored pixel, too.
    diameter
        Of the particle, angstrom; left out, it is measured.
    ctf
        "applied": restored particles keep their CTF; "corrected": as they would be without one, and their table says so.
    beyond
        What stands beyond the band that the network works at: "nothing", or the "raw" data.
    whiten
        "none": the network knows coloured noise; "background": whiten by the background's spectrum of each optics group first, and colour again.
    invert_contrast
        Whether particles are dark; "auto" looks at them. The result has the contrast of the input.
    pixel_size
        Angstrom per px, overriding the table's.
    project_root
        Folder that the stack names start from.
    dtype
        Of the restored stack.
    evidence_threshold
        A particle is accepted (rlnCryorestoreAccepted) if the probability that it is there at all exceeds this.
    batch_size
        Images read at once.
    device
        "auto" takes a GPU where there is one.
    precision
        "auto" takes bfloat16 where the processor has it.
    threads
        Of the arithmetic; left out, one for each processor core that this process may use.
    """
    if not particles:
        raise CryorestoreError("restore: no table is given, expected a STAR file of particles, or .cs files")
    restore_general(
        star=list(particles),
        **{name: out / file for name, file in FILES.items()},
        deviation_stack=out / "deviation.mrcs" if deviation else None,
        weights=weights,
        diameter=diameter,
        ctf=ctf,
        beyond=beyond,
        whiten=whiten,
        invert_contrast=invert_contrast if invert_contrast == "auto" else invert_contrast == "true",
        pixel_size=pixel_size,
        project_root=project_root,
        dtype=dtype,
        evidence_threshold=evidence_threshold,
        batch_size=batch_size,
        device=device,
        precision=precision,
        threads=len(os.sched_getaffinity(0)) if threads is None else threads,
    )
