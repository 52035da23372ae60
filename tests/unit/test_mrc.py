import logging
import pickle
import zlib

import mrcfile
import numpy as np
import pytest

from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import MrcStackReader, MrcStackWriter, read_map, read_micrograph, write_map, write_micrograph


@pytest.fixture
def images():
    return np.random.default_rng(1).standard_normal((5, 8, 8)).astype(np.float32)


def write(path, images, **options):
    with MrcStackWriter(path, count=len(images), box_size=images.shape[-1], pixel_size=1.5, **options) as writer:
        writer.append(images[:2])
        writer.append(images[2:])


def test_a_stack_is_read_back_as_it_was_written(tmp_path, images):
    write(tmp_path / "a.mrcs", images)
    reader = MrcStackReader(tmp_path / "a.mrcs")
    assert (reader.count, reader.shape2d, reader.pixel_size) == (5, (8, 8), 1.5)
    assert np.array_equal(reader.read([3, 0, 3]), images[[3, 0, 3]])


def test_a_stack_satisfies_mrcfile(tmp_path, images):
    write(tmp_path / "a.mrcs", images)
    write_map(tmp_path / "map.mrc", images, pixel_size=2.0)
    write_micrograph(tmp_path / "mic.mrc", images[0], pixel_size=2.0)
    assert all(mrcfile.validate(tmp_path / name) for name in ("a.mrcs", "map.mrc", "mic.mrc"))
    with mrcfile.open(tmp_path / "a.mrcs") as stack:
        assert stack.is_image_stack()
        assert stack.header.mz == 1
        assert float(stack.voxel_size.x) == 1.5
        assert float(stack.header.rms) == pytest.approx(images.std(), rel=1e-6)
        assert float(stack.header.dmean) == pytest.approx(images.mean(), abs=1e-7)
        assert float(stack.header.dmin) == images.min()
    with mrcfile.open(tmp_path / "map.mrc") as volume:
        assert volume.is_volume()


def test_the_same_images_give_the_same_bytes_however_they_are_cut(tmp_path, images):
    write(tmp_path / "a.mrcs", images)
    write(tmp_path / "b.mrcs", images)
    assert (tmp_path / "a.mrcs").read_bytes() == (tmp_path / "b.mrcs").read_bytes()


def test_statistics_and_hashes_do_not_depend_on_how_the_images_are_cut(tmp_path, images):
    images = 30000 + 50 * np.random.default_rng(3).standard_normal((9, 96, 96)).astype(np.float32)
    for name, pieces in (("a", [1] * 9), ("b", [9]), ("c", [4, 5])):
        with MrcStackWriter(tmp_path / name, count=9, box_size=96, pixel_size=1.0) as writer:
            for piece in np.split(images, np.cumsum(pieces)[:-1]):
                writer.append(piece)
        assert writer.hashes == [f"{zlib.crc32(image.tobytes()):08x}" for image in images]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    header = np.fromfile(tmp_path / "a", mrcfile.dtypes.HEADER_DTYPE, 1)[0]
    assert header["rms"] == pytest.approx(images.std(dtype=float), rel=1e-6)
    assert header["dmean"] == pytest.approx(images.mean(dtype=float), rel=1e-7)


def test_a_stack_of_several_pixel_sizes_says_none(tmp_path, images):
    with MrcStackWriter(tmp_path / "a.mrcs", count=5, box_size=8, pixel_size=None) as writer:
        writer.append(images)
    assert mrcfile.validate(tmp_path / "a.mrcs")
    assert MrcStackReader(tmp_path / "a.mrcs").pixel_size is None


def test_float16_is_mode_12(tmp_path, images):
    write(tmp_path / "a.mrcs", images, dtype="float16")
    assert mrcfile.validate(tmp_path / "a.mrcs")
    assert np.array_equal(MrcStackReader(tmp_path / "a.mrcs").read([4])[0], images[4].astype(np.float16))
    with pytest.raises(CryorestoreError, match="too large for float16"):
        write(tmp_path / "b.mrcs", images * 1e6, dtype="float16")
    assert not (tmp_path / "b.mrcs").exists()


def test_a_stack_with_images_missing_does_not_appear(tmp_path, images):
    with (
        pytest.raises(CryorestoreError, match="2 images were written, expected 5"),
        MrcStackWriter(tmp_path / "a.mrcs", count=5, box_size=8, pixel_size=1.0) as writer,
    ):
        writer.append(images[:2])
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_stack_leaves_nothing(tmp_path, images):
    def interrupted():
        with MrcStackWriter(tmp_path / "a.mrcs", count=5, box_size=8, pixel_size=1.0) as writer:
            writer.append(images)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["i1", "i2", "f4", "u2", "f2"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_mode_and_byte_order_is_read(tmp_path, dtype, order):
    values = np.arange(-8 if dtype[0] != "u" else 0, 19)[:18].reshape(2, 3, 3)
    path = tmp_path / "a.mrcs"
    with mrcfile.new(path) as file:
        file.set_data(values.astype(dtype))
    raw = bytearray(path.read_bytes())
    if order == ">":
        header = np.frombuffer(bytes(raw[:1024]), mrcfile.dtypes.HEADER_DTYPE).astype(mrcfile.dtypes.HEADER_DTYPE.newbyteorder(">"))
        header["machst"] = (0x11, 0x11, 0, 0)
        raw[:] = header.tobytes() + values.astype(order + dtype).tobytes()
    path.write_bytes(raw)
    assert np.array_equal(MrcStackReader(path).read([0, 1]), values)
    raw[208:216] = bytes(8)
    path.write_bytes(raw)
    assert np.array_equal(MrcStackReader(path).read([1, 0]), values[::-1])


def test_bytes_that_imod_calls_unsigned_are_unsigned(tmp_path):
    path = tmp_path / "a.mrcs"
    with mrcfile.new(path) as file:
        file.set_data(np.full((1, 2, 2), -56, np.int8))
    raw = bytearray(path.read_bytes())
    raw[152:160] = np.array([1146047817, 0], "<i4").tobytes()
    path.write_bytes(raw)
    assert MrcStackReader(path).read([0])[0, 0, 0] == 200


def test_an_extended_header_is_skipped(cases_root):
    assert MrcStackReader(cases_root / "case-07-extended-header-stack.mrcs").read([0])[0, 0, 0] == 1000


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("short", "found 8704 bytes, expected 11264"),
        ("mode", "mode 154285104, expected one of 0 .int8."),
        ("empty", "found 1024 bytes, expected 11264"),
    ],
)
def test_a_damaged_stack_is_refused_with_its_numbers(cases_root, name, facts):
    with pytest.raises(CryorestoreError, match=f"case-08-truncated-stack-{name}.mrcs.*{facts}"):
        MrcStackReader(cases_root / f"case-08-truncated-stack-{name}.mrcs")


def test_surplus_bytes_are_a_warning(cases_root, caplog):
    with caplog.at_level(logging.WARNING, "cryorestore"):
        reader = MrcStackReader(cases_root / "case-08-truncated-stack-surplus.mrcs")
    assert "37 bytes more" in caplog.text
    assert [reader.read([k])[0, 0, 0] for k in (0, 9)] == [1, 10]


def test_an_image_beyond_the_stack_is_refused(tmp_path, images):
    write(tmp_path / "a.mrcs", images)
    with pytest.raises(CryorestoreError, match="asked for image 0, expected 1 to 5"):
        MrcStackReader(tmp_path / "a.mrcs").read([-1])


def test_an_image_with_nan_is_named(tmp_path, images):
    images[3, 0, 0] = np.nan
    with pytest.warns(RuntimeWarning, match="NaN"), mrcfile.new(tmp_path / "a.mrcs") as file:
        file.set_data(images)
    reader = MrcStackReader(tmp_path / "a.mrcs")
    assert reader.read([0, 1]).shape == (2, 8, 8)
    with pytest.raises(CryorestoreError, match="image 4 holds NaN"):
        reader.read([1, 3])


def test_a_reader_can_be_sent_to_another_process(tmp_path, images):
    write(tmp_path / "a.mrcs", images)
    blob = pickle.dumps(MrcStackReader(tmp_path / "a.mrcs"))
    assert len(blob) < 2000
    assert np.array_equal(pickle.loads(blob).read([2])[0], images[2])


def test_an_image_beyond_4_gib_is_the_right_one(tmp_path):
    path, box = tmp_path / "big.mrcs", 1024
    count = 1100
    write(path, np.ones((2, box, box), np.float32))
    header = np.frombuffer(path.read_bytes()[:1024], mrcfile.dtypes.HEADER_DTYPE).copy()
    header["nz"] = count
    with path.open("wb") as handle:
        handle.write(header.tobytes())
        handle.seek(1024 + (count - 1) * box * box * 4)
        handle.write(np.full((box, box), 7, np.float32).tobytes())
    assert MrcStackReader(path).read([count - 1]).mean() == 7
    path.unlink()


def test_a_map_with_permuted_axes_is_turned_to_zyx(tmp_path):
    volume = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(volume.transpose(2, 0, 1).copy())  # sections x, rows z, columns y
        file.header.mapc, file.header.mapr, file.header.maps = 2, 3, 1
        file.voxel_size = 1.25
    read, _ = read_map(tmp_path / "a.mrc")
    assert np.array_equal(read, volume)


def test_a_map_and_a_micrograph_are_read_back(tmp_path, images):
    write_map(tmp_path / "map.mrc", images, pixel_size=3.0)
    write_micrograph(tmp_path / "mic.mrc", images[0, :6], pixel_size=0.5)
    volume, pixel_size = read_map(tmp_path / "map.mrc")
    assert np.array_equal(volume, images)
    assert pixel_size == 3.0
    micrograph, pixel_size = read_micrograph(tmp_path / "mic.mrc")
    assert np.array_equal(micrograph, images[0, :6])
    assert pixel_size == 0.5
    with pytest.raises(CryorestoreError, match="found 5 images, expected one micrograph"):
        read_micrograph(tmp_path / "map.mrc")


def test_headers_in_real_use_are_read(data_root):
    micrograph, pixel_size = read_micrograph(data_root / "apoferritin-empiar10146/micrographs/May08_03.05.02.mrc")
    assert micrograph.shape == (1200, 1240)
    assert pixel_size == 1.5
    assert MrcStackReader(data_root / "metadata-cryodrgn/relion31.mrcs").read(range(5)).shape == (5, 256, 256)
    assert MrcStackReader(data_root / "metadata-aspire/sample.mrcs").pixel_size is None
    volume, pixel_size = read_map(data_root / "maps/betaGal.mrc")
    assert volume.shape == (100, 100, 100)
    assert pixel_size == pytest.approx(3.54)
