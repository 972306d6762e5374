"""Pictures: digits, CIFAR-10 files as they should and should not be, noise in labels, augmentation."""

import hashlib
import os
import pickle
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsrc.data import download_cifar10, images
from jaxsrc.data.image_augment import AugmentConfig, augment, cut_out, shift
from jaxsrc.data.images import MD5, ROWS, ImageDataConfig, load, noisy, shape, size
from jaxsrc.errors import UserError


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """The canonical layout, its pixels random."""
    folder = tmp_path_factory.mktemp("cifar") / images.FOLDER
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in MD5:
        data = rng.integers(0, 256, (ROWS, 3072), np.uint8)
        content = {b"data": data, b"labels": rng.integers(0, 10, ROWS).tolist(), b"batch_label": name.encode()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=4))
    return folder.parent


@pytest.fixture
def copied(cifar, tmp_path):
    """A copy of the folder by hard links, so that a test may replace one file."""
    target = tmp_path / images.FOLDER
    target.mkdir()
    for name in MD5:
        os.link(cifar / images.FOLDER / name, target / name)
    return tmp_path


def test_digits_need_no_file_and_their_parts_share_no_picture():
    found = load(ImageDataConfig())
    assert found.train.images.shape == (1437, 8, 8, 1) and found.test.images.shape == (360, 8, 8, 1)
    assert size(ImageDataConfig()) == 1437 and shape(ImageDataConfig()) == (8, 1)
    both = np.concatenate([found.train.images, found.test.images]).reshape(1797, -1)
    assert len(np.unique(both, axis=0)) == 1797
    again = load(ImageDataConfig())
    assert (again.train.labels == found.train.labels).all()


def test_a_part_of_the_training_set_is_the_same_part_each_time():
    part = load(ImageDataConfig(examples=100))
    assert part.train.images.shape[0] == 100 and (load(ImageDataConfig(examples=100)).train.images == part.train.images).all()
    with pytest.raises(UserError, match="at most the 1437"):
        load(ImageDataConfig(examples=2000))


def test_noise_changes_exactly_its_share_and_only_to_other_classes():
    labels = np.arange(1000, dtype=np.int32) % 10
    found = noisy(labels, 0.2, 0)
    assert (found != labels).sum() == 200 and found.min() >= 0 and found.max() <= 9
    assert (noisy(labels, 0.2, 0) == found).all() and (noisy(labels, 0.2, 1) != found).any()
    data = load(ImageDataConfig(label_noise=0.1))
    assert (data.train.labels != data.clean).mean() == pytest.approx(0.1, abs=1e-3)
    assert (data.test.labels == load(ImageDataConfig()).test.labels).all()  # the test is never touched


def test_cifar_reads_planes_into_pixels(cifar):
    found = load(ImageDataConfig(source="cifar10", folder=str(cifar)))
    assert found.train.images.shape == (50_000, 32, 32, 3) and "not byte for byte" in found.note
    raw = pickle.loads((cifar / images.FOLDER / "data_batch_2").read_bytes())
    picture = raw[b"data"][7]
    assert found.train.images[ROWS + 7, 3, 5, 1] == picture[1024 + 3 * 32 + 5]
    assert found.train.labels[ROWS + 7] == raw[b"labels"][7]


def test_cifar_reads_the_archive_too(cifar, tmp_path):
    archive = tmp_path / "mine.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as file:
        file.add(cifar / images.FOLDER, images.FOLDER)
    found = load(ImageDataConfig(source="cifar10", folder=str(archive), examples=64))
    assert found.train.images.shape == (64, 32, 32, 3)
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(UserError, match="expected"):
        load(ImageDataConfig(source="cifar10", folder=str(archive)))


class Evil:
    def __reduce__(self):
        return (os.system, ("true",))


def broken(kind, path):
    good = pickle.loads(path.read_bytes())
    path.unlink()  # the links of other tests keep their content
    if kind == "cut":
        return pickle.dumps(good, protocol=4)[:5000]
    if kind == "labels":
        good[b"labels"][5] = 10
    if kind == "rows":
        good[b"data"] = good[b"data"][:-1]
    if kind == "code":
        good = {b"data": good[b"data"], b"labels": Evil()}
    return b"not a pickle" if kind == "text" else pickle.dumps(good, protocol=4)


@pytest.mark.parametrize("kind", ["cut", "labels", "rows", "code", "text"])
def test_damaged_files_are_refused_by_name(copied, kind):
    path = copied / images.FOLDER / "data_batch_3"
    path.write_bytes(broken(kind, path))
    with pytest.raises(UserError, match=r"data_batch_3: expected .* got .*prepare_cifar10"):
        load(ImageDataConfig(source="cifar10", folder=str(copied)))


def test_missing_files_are_named(copied, tmp_path):
    (copied / images.FOLDER / "test_batch").unlink()
    with pytest.raises(UserError, match="test_batch"):
        load(ImageDataConfig(source="cifar10", folder=str(copied)))
    with pytest.raises(UserError, match="got neither"):
        load(ImageDataConfig(source="cifar10", folder=str(tmp_path / "nothing")))
    part = tmp_path / images.ARCHIVE
    part.write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="170,498,071 bytes, got 1,000"):
        load(ImageDataConfig(source="cifar10", folder=str(part)))


def test_a_download_is_checked_before_it_takes_its_place(tmp_path):
    source, content = tmp_path / "source", os.urandom(3000)
    source.write_bytes(content)
    target, digest = tmp_path / "there" / "archive", hashlib.md5(content).hexdigest()
    with pytest.raises(UserError, match="try again"):
        download_cifar10.fetch(source.as_uri(), target, 3000, "0" * 32)
    assert not target.exists() and not list(target.parent.glob("*.part"))
    download_cifar10.fetch(source.as_uri(), target, 3000, digest)
    assert target.read_bytes() == content
    source.unlink()
    download_cifar10.fetch(source.as_uri(), target, 3000, digest)  # nothing more to fetch
    with pytest.raises(UserError, match="to answer"):
        download_cifar10.fetch(source.as_uri(), target.with_name("other"), 3000, digest)


def test_shifts_are_shifts_and_mirrors_are_mirrors():
    pictures = jnp.arange(2 * 6 * 6.0).reshape(2, 6, 6, 1)
    moved = np.asarray(shift(pictures, 2, jax.random.key(0)))
    wide = np.pad(np.asarray(pictures), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    for i in range(2):
        assert any((moved[i] == wide[i, r : r + 6, c : c + 6]).all() for r in range(5) for c in range(5))
    flipped = augment(jnp.tile(pictures[:1], (64, 1, 1, 1)), AugmentConfig(flip=True), jax.random.key(1)).images
    same = (flipped == pictures[:1]).all((1, 2, 3))
    turned = (flipped == pictures[:1, :, ::-1]).all((1, 2, 3))
    assert (same ^ turned).all() and 10 < int(same.sum()) < 54


def test_cut_outs_remove_a_square_at_most():
    holes = cut_out(jnp.ones((50, 8, 8, 1)), 4, jax.random.key(0))
    gone = np.asarray((holes == 0).sum((1, 2, 3)))
    assert gone.max() == 16 and gone.min() >= 4


def test_mixtures_weigh_pictures_as_labels():
    pictures = jnp.arange(8.0)[:, None, None, None] * jnp.ones((8, 2, 2, 1))
    found = augment(pictures, AugmentConfig(mixup=1.0), jax.random.key(0))
    own, other = np.arange(8.0), np.asarray(found.partner, float)
    share = np.asarray(found.share)
    np.testing.assert_allclose(found.images[:, 0, 0, 0], share * own + (1 - share) * other, rtol=1e-5)
    assert (share >= 0.5).all()
