"""Reduce PDB 7PBL to the demo's molecule: python benchmarks/make_demo_molecule.py 7pbl.pdb.gz src/cryorestore/assets/7pbl.npz"""

import sys

import numpy as np

from cryorestore.molecule import read_atoms


def main(source: str, target: str) -> None:
    """Write the heavy atoms: positions in 0.1 angstrom about their mean (int16), atomic number (uint8), chain (index into chain_names)."""
    positions, weights, chains = read_atoms(source)
    chain_names, chain = np.unique(chains, return_inverse=True)
    np.savez_compressed(
        target,
        positions=np.round((positions - positions.mean(0)) * 10).astype(np.int16),
        atomic_number=np.round(weights).astype(np.uint8),
        chain=chain.astype(np.uint8),
        chain_names=chain_names,
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
