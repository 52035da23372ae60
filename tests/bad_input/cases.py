"""What may be wrong with an input, the command that meets it, and what its message has to say."""

import gzip
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
from safetensors.torch import save_file

import bad_input.files as files
from cryorestore.io.mrc import write_map

Make = Callable[[Path], None]
NORMALIZE = "normalize-particles --star particles.star --normalized-stack out/n.mrcs --normalized-star out/n.star --statistics-csv out/s.csv "
NORMALIZE += "--rejects-star out/r.star --bg-radius 6"
IMPORT = "import-particles --particles particles.star --star out/p.star"
CONVERT = "convert-particles particles.star --out out/p.cs"
FROM_CS = "convert-particles particles.cs --out out/p.star"
SPLIT = (
    "split-particles --star particles.star --half1-star out/1.star --half2-star out/2.star --unposed1-star out/u1.star --unposed2-star out/u2.star"
)
EXTRACT = "extract-particles --micrographs-star micrographs.star --coordinates a.box --stack out/p.mrcs --star out/p.star --rejects-star out/x.star "
EXTRACT += "--box-size 16 --pixel-size 1.5"
FSC = "compute-fsc --half-map-1 map1.mrc --half-map-2 map2.mrc --curve out/f.csv --plot out/f.svg --figures out/f.json"
RECONSTRUCT = "reconstruct-map --star particles.star --map out/m.mrc --map-odd out/o.mrc --map-even out/e.mrc --backend native"
SIMULATE = "simulate-micrographs --molecule molecule.pdb --micrographs-star out/m.star --coordinates-dir out/c --particles-star out/p.star "
SIMULATE += "--truth-star out/t.star --truth-stack out/t.mrcs --truth-map out/t.mrc --count 1 --per-micrograph 1 --box-size 16 --pixel-size 4 "
SIMULATE += "--micrograph-size 64 --snr-structural 1 --snr-shot 1 --voltage 300 --spherical-aberration 2.7 --amplitude-contrast 0.1 "
SIMULATE += "--defocus-range 9000 10000 --conformer-fraction 0 --conformer-chain A --conformer-angle 0 --pick-error-px 0 --rotation-error 0 "
SIMULATE += "--shift-error 0 --junk-fraction 0 --seed 1"
RESTORE = "restore-particles --star particles.star --reference-map map1.mrc --noise-json noise.json --diffusion-weights network.pt "
RESTORE += "--rotation-sigma 1 --shift-sigma 1 --condition noisy --sampler ddim --sampler-steps 1 "
RESTORE += "--restored-stack out/r.mrcs --restored-star out/r.star --evidence-csv out/e.csv"
CHECK = "check-config --configfile mine.yaml"


@dataclass(frozen=True)
class Case:
    """One spoiled input."""

    seen: str
    """what is wrong, for the table in docs/troubleshooting.md"""
    make: Make
    command: str
    facts: str
    """regular expression that the message matches"""


def spoiled_stack(spoil: Callable[[Path], None]) -> Make:
    """A table whose stack is spoiled."""

    def make(folder: Path) -> None:
        files.table(folder)
        spoil(folder / "stack.mrcs")

    return make


def edited_table(old: str, new: str) -> Make:
    """A table with other text somewhere."""
    return lambda folder: files.edit(files.table(folder), old, new)


def with_table(**options: object) -> Make:
    """A table with other columns."""

    def make(folder: Path) -> None:
        files.table(folder, **options)  # type: ignore[arg-type]

    return make


def written(name: str, content: bytes) -> Make:
    """A file of these bytes."""

    def make(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return make


def configured(text: str) -> Make:
    """mine.yaml of this text."""
    return written("mine.yaml", text.encode())


class Payload:
    """Something that, unpickled, leaves a file named `executed` behind."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def _replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))


def _gzipped_table(folder: Path) -> None:
    _gzip(files.table(folder))


def _two_boxes(folder: Path) -> None:
    files.table(folder)
    files.stack(folder / "other.mrcs", box=12)
    files.edit(folder / "particles.star", "000006@stack.mrcs", "000006@other.mrcs")


def _two_pixel_sizes(folder: Path) -> None:
    two = {"rlnOpticsGroup": ["1", "2"], "rlnOpticsGroupName": ["one", "two"], "rlnImagePixelSize": ["1.5", "1.1"], "rlnImageSize": ["16", "16"]}
    two |= {name: [cell, cell] for name, cell in (("rlnVoltage", "300"), ("rlnSphericalAberration", "2.7"), ("rlnAmplitudeContrast", "0.1"))}
    files.table(folder, optics=two | {"rlnImageDimensionality": ["2", "2"]}, particles={"rlnOpticsGroup": ["1", "2"] * 3})


def _cut_in_a_row(folder: Path) -> None:
    path = files.table(folder)
    path.write_bytes(path.read_bytes()[:-40])


def _map_with_infinity(folder: Path) -> None:
    files.maps(folder)
    files.pixel(folder / "map2.mrc", 1, np.inf)


def _cut_table_of_cryosparc(folder: Path) -> None:
    path = files.cryosparc(folder)
    path.write_bytes(path.read_bytes()[:-10])


def _csdat(folder: Path) -> None:
    from cryosparc.dataset import CSDAT_FORMAT, Dataset

    path = folder / "particles.cs"
    Dataset({"uid": [1, 2], "blob/path": ["a", "b"]}).save(path, format=CSDAT_FORMAT)
    path.write_bytes(path.read_bytes()[:-3])


def _object_array(folder: Path) -> None:
    with (folder / "particles.cs").open("wb") as handle:
        np.save(handle, np.array([Payload()], dtype=object), allow_pickle=True)


def _pickled_network(folder: Path) -> None:
    files.table(folder)
    files.reference(folder)
    torch.save({"weights": torch.zeros(2), "more": Payload()}, folder / "network.pt")


def _exchanged_network(folder: Path) -> None:
    files.table(folder)
    files.reference(folder)
    save_file({"a": torch.zeros(2)}, folder / "network.pt", {"fingerprint": "one"})
    (folder / "network.json").write_text('{"fingerprint": "other", "kind": "diffusion"}', encoding="utf-8")


def _described_by_a_number(folder: Path) -> None:
    _exchanged_network(folder)
    (folder / "network.json").write_text("7", encoding="utf-8")


def _noise_of_another(folder: Path) -> None:
    files.table(folder)
    files.reference(folder)
    (folder / "noise.json").write_text('{"pixel_size": 1.5}', encoding="utf-8")


def _movie(folder: Path) -> None:
    files.micrographs(folder, "10 10 16 16\n")
    write_map(folder / "mics/a.mrc", np.zeros((5, 16, 16)), pixel_size=1.5)


def spoiled_tiff(spoil: Callable[[Path], None]) -> Make:
    """A micrograph as TIFF that is spoiled."""

    def make(folder: Path) -> None:
        files.micrographs(folder, "10 10 16 16\n")
        (folder / "mics/a.mrc").unlink()
        tifffile.imwrite(folder / "mics/a.tif", np.zeros((64, 64), np.uint16))
        spoil(folder / "mics/a.tif")
        files.edit(folder / "micrographs.star", "a.mrc", "a.tif")

    return make


def _two_heights(path: Path) -> None:
    """Give the tag ImageLength, which is one number, two."""
    with tifffile.TiffFile(path) as file:
        place = file.pages.first.tags["ImageLength"].offset
    files.put(path, place + 2, struct.pack("<HIHH", 3, 2, 64, 64))


def picked(lines: str) -> Make:
    """Micrographs with these picks."""
    return lambda folder: files.micrographs(folder, lines)


def boxes_of_maps(*boxes: int) -> Make:
    """Half-maps of these boxes."""
    return lambda folder: files.maps(folder, boxes)  # type: ignore[arg-type]


CASES = {
    "stack-short": Case("stack cut short", spoiled_stack(lambda path: os.truncate(path, 4000)), NORMALIZE, r"stack\.mrcs: found 4000 .* 7168 "),
    "stack-header": Case("stack with a header and no image", spoiled_stack(lambda path: os.truncate(path, 1024)), NORMALIZE, "found 1024 bytes"),
    "stack-empty": Case("empty stack", spoiled_stack(lambda path: os.truncate(path, 0)), NORMALIZE, r"stack\.mrcs: found 0 bytes.*1024"),
    "stack-mode": Case("header damaged", spoiled_stack(lambda path: files.put(path, 12, b"\7\7\7\7")), NORMALIZE, "mode 117901063.*float32"),
    "stack-shape": Case("negative size", spoiled_stack(lambda path: files.put(path, 0, b"\xff" * 4)), NORMALIZE, "-1 x 16 x 6"),
    "stack-gzip": Case("gzipped stack", spoiled_stack(_gzip), NORMALIZE, r"stack\.mrcs: .*is gzipped"),
    "stack-missing": Case(
        "stack missing", spoiled_stack(Path.unlink), NORMALIZE, r"particles\.star: row 1: found 'stack\.mrcs'.*tried.*project_root"
    ),
    "stack-pipe": Case("stack is a pipe", spoiled_stack(_replace_by_pipe), NORMALIZE, r"row 1: found 'stack\.mrcs', expected a"),
    "stack-folder": Case("stack is a folder", spoiled_stack(_replace_by_folder), NORMALIZE, r"row 1: found 'stack\.mrcs', expected a"),
    "image-device": Case("image name of a device", edited_table("000003@stack.mrcs", "000003@/dev/zero"), NORMALIZE, "row 3: found '/dev/zero'"),
    "image-name": Case("image name without a number", edited_table("000002@", "second@"), NORMALIZE, "row 2: found rlnImageName 'second@stack.mrcs'"),
    "image-number": Case("image number beyond the stack", edited_table("000006@", "000007@"), NORMALIZE, "row 6: .*000007@.*from 1 to 6"),
    "image-zero": Case("images counted from 0", edited_table("000001@", "000000@"), NORMALIZE, "row 1: .*000000@.*first is 1"),
    "pixels-nan": Case("a pixel is NaN", spoiled_stack(lambda path: files.pixel(path, 3, np.nan)), RECONSTRUCT, r"stack\.mrcs: image 3 holds NaN"),
    "map-infinite": Case("a map's voxel is infinite", _map_with_infinity, FSC, r"map2\.mrc: holds NaN or infinite"),
    "map-boxes": Case("half-maps of two boxes", boxes_of_maps(8, 12), FSC, r"8 x 8 x 8 voxels in map1\.mrc and 12 x 12 x 12 voxels in map2\.mrc"),
    "map-missing": Case("half-map missing", boxes_of_maps(8), FSC, r"map2\.mrc: cannot be read \(No such file"),
    "two-boxes": Case("stacks of two boxes", _two_boxes, NORMALIZE, r"other\.mrcs has images of 12 x 12 pixels.*stack\.mrcs: 16 x 16"),
    "box-configured": Case("box is not the configured one", with_table(), f"{IMPORT} --box-size 64", r"particles\.star: .* 16 px, .*says 64"),
    "pixel-sizes": Case("optics groups of two pixel sizes", _two_pixel_sizes, NORMALIZE, r"one \(group 1\) 1\.5, two \(group 2\) 1\.1"),
    "pixel-size": Case("no pixel size", with_table(drop=("rlnImagePixelSize",)), NORMALIZE, r"no pixel size.*rlnImagePixelSize"),
    "pixel-zero": Case("pixel size 0", with_table(optics={"rlnImagePixelSize": ["0"]}), NORMALIZE, r"rlnImagePixelSize \[0\.0\].*positive"),
    "images-column": Case("table without images", with_table(drop=("rlnImageName",)), NORMALIZE, "column _rlnImageName is missing"),
    "ctf-column": Case("table without defocus", with_table(drop=("rlnDefocusU", "rlnDefocusV")), RECONSTRUCT, "_rlnDefocusU is missing"),
    "poses": Case("table without poses", with_table(drop=("rlnAngleRot",)), SPLIT, "half 1 has 0 particles with poses"),
    "group": Case("optics group not listed", with_table(particles={"rlnOpticsGroup": ["1", "1", "4"] * 2}), NORMALIZE, r"row 3: .*4.*\[1\]"),
    "star-missing": Case("table missing", lambda folder: None, NORMALIZE, r"particles\.star: cannot be read \(No such file or directory\)"),
    "star-gzip": Case("gzipped table", _gzipped_table, NORMALIZE, r"particles\.star: .*is gzipped; unpack it with gunzip"),
    "star-binary": Case("table is no text", written("particles.star", bytes(range(256))), NORMALIZE, r"particles\.star: line 1: .*expected data_"),
    "star-cut": Case("table ends within a row", _cut_in_a_row, NORMALIZE, r"particles\.star: line 36: found \d+ cells .*expected 11"),
    "star-cell": Case("cell is no number", edited_table("9000.0", "9OOO.0"), RECONSTRUCT, "row 1, column _rlnDefocusU: found '9OOO.0'"),
    "star-nan": Case("defocus is NaN", edited_table("9000.0", "nan"), RECONSTRUCT, "row 1: found rlnDefocusU nan, expected a finite number"),
    "star-column": Case("column twice", edited_table("_rlnAngleTilt", "_rlnAngleRot"), NORMALIZE, "column _rlnAngleRot stands there twice"),
    "star-table": Case("table twice", edited_table("data_optics", "data_particles"), NORMALIZE, "data_particles stands there twice"),
    "halves-wrong": Case("half-set 3", with_table(particles={"rlnRandomSubset": ["1", "2", "3"] * 2}), SPLIT, "row 3: found rlnRandomSubset 3"),
    "halves-empty": Case("one half-set only", with_table(particles={"rlnRandomSubset": ["1"] * 6}), SPLIT, "half 2 has 0 particles"),
    "halves-shared": Case("one image in both half-sets", edited_table("000002@", "000001@"), SPLIT, "rows 1 and 2: .*000001@stack.mrcs"),
    "three": Case("three particles in one half", with_table(count=3, particles={"rlnRandomSubset": ["1"] * 3}), SPLIT, "half 2 has 0 particles"),
    "no-rows": Case("table without rows", with_table(count=0), NORMALIZE, r"particles\.star: .*no rows"),
    "picks-text": Case(
        "pick is no number", picked("10 10 16 16\n1O 20 16 16\n"), EXTRACT, r"a\.box: line 2: found '1O 20 16 16', expected 4 numbers"
    ),
    "picks-short": Case("pick without size", picked("10 10\n"), EXTRACT, r"a\.box: line 1: .*expected 4 numbers"),
    "picks-outside": Case("all picks outside", picked("500 500 16 16\n"), EXTRACT, r"0 particles"),
    "picks-none": Case("no picks", picked(""), EXTRACT, r"0 particles"),
    "movie": Case("micrograph is a movie", _movie, EXTRACT, r"mics/a\.mrc: found 5 images, expected one micrograph"),
    "tiff-cut": Case("TIFF cut short", spoiled_tiff(lambda path: os.truncate(path, 5000)), EXTRACT, r"mics/a\.tif: .*found 5000 bytes.*cut short"),
    "tiff-tag": Case("TIFF with a damaged tag", spoiled_tiff(_two_heights), EXTRACT, r"mics/a\.tif: cannot be read as TIFF"),
    "cs-cut": Case(".cs cut short", _cut_table_of_cryosparc, FROM_CS, r"particles\.cs: cannot be read as a cryoSPARC table"),
    "csdat-cut": Case(".cs of the newer form cut short", _csdat, FROM_CS, r"particles\.cs: cannot be read as a cryoSPARC table \(field blob/path"),
    "cs-pickle": Case("pickle named .cs", written("particles.cs", pickle.dumps(Payload())), FROM_CS, r"particles\.cs: .*is a pickle, which is never"),
    "cs-objects": Case(".cs with objects", _object_array, FROM_CS, r"particles\.cs: cannot be read .*[Oo]bject"),
    "cs-twice": Case("particle twice in .cs", lambda folder: files.cryosparc(folder, uids=[1, 2, 2]), FROM_CS, "row 2: found uid 2 2 times"),
    "cs-fields": Case(".cs without images", lambda folder: files.cryosparc(folder, drop=("blob/path",)), FROM_CS, "fields blob/path are missing"),
    "cs-uid": Case(".cs without uid", lambda folder: files.cryosparc(folder, drop=("uid",)), FROM_CS, "field uid is missing"),
    "cs-pose": Case(
        "pose is NaN in .cs", lambda folder: files.cryosparc(folder, turn=np.nan), FROM_CS, r"row 2: found alignments3D/pose 0, 0, nan, expected"
    ),
    "network-pickle": Case("network as PyTorch's .pt", _pickled_network, RESTORE, r"network\.pt: .*never loaded"),
    "network-other": Case("network beside another's JSON", _exchanged_network, RESTORE, r"network\.pt: does not belong to network\.json"),
    "network-number": Case("network described by a number", _described_by_a_number, RESTORE, r"network\.json: found int, expected the description"),
    "noise": Case("noise.json of something else", _noise_of_another, RESTORE, r"noise\.json: found no noise and signal of a half \('noise_power'\)"),
    "molecule": Case("molecule is none", written("molecule.pdb", b"nothing\n"), SIMULATE, r"molecule\.pdb: "),
    "key": Case("misspelt key", configured("extract: {boxsize: 64}"), CHECK, r"mine\.yaml|extract\.boxsize.*did you mean box_size"),
    "value": Case("value out of range", configured("normalize: {bg_radius: -3}"), CHECK, r"normalize\.bg_radius = -3: .*px"),
    "key-twice": Case("key written twice", configured("seed: 1\nseed: 2\n"), CHECK, r"mine\.yaml: .*'seed' is written twice"),
    "yaml": Case("no YAML", configured("extract: [1, 2\n"), CHECK, r"mine\.yaml: cannot be read as YAML"),
    "yaml-text": Case("not UTF-8", written("mine.yaml", b"seed: \xff\n"), CHECK, r"mine\.yaml: cannot be read as YAML .*utf-8"),
    "yaml-object": Case(
        "YAML that makes an object", configured("seed: !!python/object/apply:os.mkdir [executed]"), CHECK, r"mine\.yaml: .*python/object"
    ),
    "yaml-aliases": Case(
        "aliases of aliases",
        configured(
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{two}: &{two} [{','.join([f'*{one}'] * 9)}]\n" for one, two in zip("abcdefgh", "bcdefghi", strict=True))
        ),
        CHECK,
        r"mine\.yaml: .*aliases stand for",
    ),
    "dataset-path": Case("data set named like a path", lambda folder: None, "check-config --datasets ../x", r"datasets.* = '\.\./x': .*matching"),
    "method-path": Case("method named like a path", configured("methods: {../x: {}}"), CHECK, r"'?\.\./x'?.*matching|\.\./x"),
    "dataset": Case("unknown data set", lambda folder: None, "check-config --datasets absent", r"datasets = 'absent': .*does not exist; allowed: "),
}
