"""What a person sees, docs/general_benchmark/montage.png: the first particle of each structure, never shown in training, raw, filtered and restored.

usage: python benchmarks/general/montage.py [--weights FILE] [--data FOLDER]
"""

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from lanes import restore
from measure import DATA, FULL, SEED, validation_models
from particles import at_snr, drawn

from cryorestore.files import atomic_path
from cryorestore.general.structures import find_model

FIGURE = Path(__file__).parents[2] / "docs/general_benchmark/montage.png"
SNRS = (0.1, 0.02)
SHOWN = {"raw": "raw", "wiener-masked": "Wiener,\nmasked", "general": "general"}


def main() -> None:
    """Restore and draw: a row a lane and SNR, a column a structure; grey values are the clean particle's, the raw images have their own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    models = validation_models(FULL)
    names = [f"{label}\nSNR {snr:g}" for snr in SNRS for label in (*SHOWN.values(), "deviation")] + ["truth"]
    figure, axes = plt.subplots(len(names), len(models), figsize=(1.1 * len(models) + 0.9, 1.1 * len(names) + 0.3))
    for column, model in enumerate(models):
        drawing = drawn(find_model(model, options.data), FULL.particles, noise="plain", seed=SEED)
        row = 0
        for snr in SNRS:
            particles = at_snr(drawing, snr)
            clean = particles.clean[0]
            for lane in SHOWN:
                images, restored, _ = restore(lane, particles, weights=options.weights, peer_python="")
                bounds = (float(images[0].min()), float(images[0].max())) if lane == "raw" else (float(clean.min()), float(clean.max()))
                axes[row, column].imshow(images[0], cmap="gray", vmin=bounds[0], vmax=bounds[1])
                row += 1
            axes[row, column].imshow(restored.deviation[0], cmap="gray", vmin=0, vmax=float(clean.std()) * 2)
            row += 1
        axes[row, column].imshow(drawing.clean[0], cmap="gray")
        axes[0, column].set_title(model.id, fontsize=9)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for name, axis in zip(names, axes[:, 0], strict=True):
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    figure.tight_layout(pad=0.3)
    FIGURE.parent.mkdir(exist_ok=True)
    with atomic_path(FIGURE) as temporary:
        figure.savefig(temporary, dpi=90, format="png", metadata={"Software": None})


if __name__ == "__main__":
    main()
