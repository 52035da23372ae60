import mrcfile
import numpy as np
import pytest
import tifffile

from cryorestore.errors import CryorestoreError
from cryorestore.io.micrograph_file import inspect_micrograph
from cryorestore.micrographs import read_micrographs


@pytest.fixture
def pixels():
    return np.random.default_rng(2).integers(0, 100, (20, 30))


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float16", "float32"])
def test_every_mode_of_mrc_is_read_as_it_is(tmp_path, pixels, dtype):
    mrcfile.write(tmp_path / "a.mrc", pixels.astype(dtype))
    file = inspect_micrograph(tmp_path / "a.mrc")
    assert file.shape == (20, 30)
    assert file.pixels().dtype == dtype
    assert np.array_equal(file.pixels(), pixels)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("options", [{}, {"rowsperstrip": 3}, {"compression": "lzw"}, {"compression": "zlib"}], ids=str)
def test_the_last_row_of_a_tiff_is_the_first_as_in_relion(tmp_path, pixels, dtype, options):
    tifffile.imwrite(tmp_path / "a.tif", pixels.astype(dtype), **options)
    file = inspect_micrograph(tmp_path / "a.tif")
    assert file.shape == (20, 30)
    assert np.array_equal(file.pixels(), pixels[::-1])


def test_movies_and_volumes_are_refused(tmp_path):
    movie = np.zeros((3, 8, 8), np.float32)
    mrcfile.write(tmp_path / "a.mrc", movie)
    tifffile.imwrite(tmp_path / "a.tif", movie, photometric="minisblack")
    for name in ("a.mrc", "a.tif"):
        with pytest.raises(
            CryorestoreError, match=rf"{name}: found 3 images, expected one micrograph, no movie, volume or stack; sum the movie first"
        ):
            inspect_micrograph(tmp_path / name)


def test_a_damaged_or_coloured_tiff_is_refused(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels.astype(np.float32))
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[:-500])
    with pytest.raises(CryorestoreError, match=f"a.tif: found {len(content) - 500} bytes, expected {len(content)}"):
        inspect_micrograph(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes(b"no TIFF at all")
    with pytest.raises(CryorestoreError, match=r"a\.tif: cannot be read as TIFF"):
        inspect_micrograph(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    with pytest.raises(CryorestoreError, match=r"found a TIFF of uint8 values and shape \(8, 8, 3\)"):
        inspect_micrograph(tmp_path / "a.tif")


def test_a_folder_may_hold_both_kinds(tmp_path, pixels):
    mrcfile.write(tmp_path / "b.mrc", pixels.astype(np.float32))
    tifffile.imwrite(tmp_path / "a.tiff", pixels.astype(np.float32))
    (tmp_path / "notes.txt").write_text("")
    table = read_micrographs(tmp_path, pixel_size=1.0)
    assert [micrograph.stem for micrograph in table.micrographs] == ["a", "b"]


def test_every_faulty_micrograph_of_a_table_is_listed(tmp_path, pixels):
    for name in ("a", "b"):
        mrcfile.write(tmp_path / f"{name}.mrc", pixels.astype(np.float32))
        (tmp_path / f"{name}.mrc").write_bytes((tmp_path / f"{name}.mrc").read_bytes()[:-1])
    with pytest.raises(CryorestoreError, match=r"(?s)a\.mrc: found 3423 bytes, expected 3424.*b\.mrc: found 3423 bytes"):
        read_micrographs(tmp_path, pixel_size=1.0)
