"""Unpacking: what is read as it is, and every archive that must be refused."""

import io
import stat
import tarfile
import zipfile

import pytest

from datasets.importing import tree
from unpaired.errors import DataError, ResourceError
from unpaired.importing import unpack as module
from unpaired.importing.unpack import unpacked

FILES = {"a/one.txt": b"1" * 300, "a/b/two.bin": bytes(range(256)) * 9}


def write_zip(path, files=FILES, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def write_tar(path, files=FILES, mode="w:gz", kind=tarfile.REGTYPE, target=""):
    with tarfile.open(path, mode) as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(content), kind, target
            packed.addfile(member, io.BytesIO(content))
    return path


def content(archive, scratch, **more):
    with unpacked(archive, scratch, **more) as root:
        return tree(root)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.zip", write_zip),
        ("x.tar.gz", write_tar),
        ("x.tgz", write_tar),
        ("x.tar", lambda path: write_tar(path, mode="w:")),
        ("x.tar.xz", lambda path: write_tar(path, mode="w:xz")),
    ],
)
def test_every_kind(tmp_path, name, write):
    seen = []
    found = content(write(tmp_path / name), tmp_path / "s", progress=lambda *a: seen.append(a))
    assert found == FILES
    assert seen[-1][0] == seen[-1][1]


def test_a_folder_stays_where_it_is(tmp_path):
    with unpacked(tmp_path, tmp_path / "s") as root:
        assert root == tmp_path
    assert not (tmp_path / "s").exists()


def test_leftovers_of_file_managers_are_left_out(tmp_path):
    extra = {"__MACOSX/a/._one.txt": b"x", "a/.DS_Store": b"x", "a/._one.txt": b"x"}
    assert content(write_zip(tmp_path / "x.zip", {**FILES, **extra}), tmp_path / "s") == FILES


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/etc/evil", "C:/evil", "a\\..\\evil", "..", "C:evil"]
)
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_members_that_lead_out(tmp_path, name, write):
    scratch = tmp_path / "deep" / "s"
    path = write(tmp_path / "x", {**FILES, name: b"x"})
    with pytest.raises(DataError, match="outside its folder"):
        content(path, scratch)
    assert not [p for p in tmp_path.rglob("*") if "evil" in p.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_of_a_tar(tmp_path, kind):
    path = write_tar(tmp_path / "x.tar", {"a": b""}, "w:", kind, "/etc/passwd")
    with pytest.raises(DataError, match="a link or a device"):
        content(path, tmp_path / "s")
    assert not list((tmp_path / "s").iterdir())


def test_links_of_a_zip(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as packed:
        member = zipfile.ZipInfo("a")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(member, "/etc/passwd")
    with pytest.raises(DataError, match="a link or a device"):
        content(path, tmp_path / "s")


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_limit_of_size(tmp_path, write):
    size = sum(map(len, FILES.values()))
    path = write(tmp_path / "x")
    with pytest.raises(DataError, match="above the limit"):
        content(path, tmp_path / "s", limit=size - 1)
    assert content(path, tmp_path / "s", limit=size) == FILES


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_limit_of_members_and_a_full_disk(tmp_path, write, monkeypatch):
    path = write(tmp_path / "x")
    monkeypatch.setattr(module, "MAX_MEMBERS", 1)
    with pytest.raises(DataError, match="more than 1 files"):
        content(path, tmp_path / "s")
    monkeypatch.setattr(module, "MAX_MEMBERS", 2)
    monkeypatch.setattr(module, "_SPARE_BYTES", 2**62)
    with pytest.raises(ResourceError, match="make room"):
        content(path, tmp_path / "t")


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_the_same_member_twice(tmp_path, write):
    path = write(tmp_path / "x")
    with pytest.warns(UserWarning) if write is write_zip else _nothing():
        if write is write_zip:
            with zipfile.ZipFile(path, "a") as packed:
                packed.writestr("a/one.txt", b"2")
        else:
            names = ["a/one.txt", "a/one.txt"]
            with tarfile.open(path, "w") as packed:
                for name in names:
                    packed.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match="twice"):
        content(path, tmp_path / "s")


class _nothing:  # noqa: N801
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_damage(tmp_path):
    """A flipped byte, a cut end, a cut start, no archive at all."""
    path = write_zip(tmp_path / "x.zip", compression=zipfile.ZIP_STORED)
    whole = path.read_bytes()
    spoilt = bytearray(whole)
    spoilt[whole.index(b"1" * 300) + 5] ^= 1
    path.write_bytes(spoilt)
    with pytest.raises(DataError, match=r"damaged or cut short.*CRC"):
        content(path, tmp_path / "s")
    path.write_bytes(whole[:-30])
    with pytest.raises(DataError, match="neither a folder nor a whole"):
        content(path, tmp_path / "t")
    packed = write_tar(tmp_path / "x.tar.gz", {"a": bytes(i * 7 % 251 for i in range(90000))})
    packed.write_bytes(packed.read_bytes()[:400])
    with pytest.raises(DataError, match="damaged or cut short"):
        content(packed, tmp_path / "u")
    assert not [p for p in (tmp_path / "u").rglob("*") if p.is_file()]
    with pytest.raises(DataError, match="does not exist"):
        content(tmp_path / "none.zip", tmp_path / "v")


@pytest.mark.parametrize(("field", "value", "words"), [(8, 99, "compression"), (6, 1, "encrypted")])
def test_what_python_cannot_unpack(tmp_path, field, value, words):
    """An unknown compression and a password, set in both headers of the first member."""
    path = write_zip(tmp_path / "x.zip")
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\1\2")
    data[field], data[central + field + 2] = value, value
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"{words}.*unpack it and give the folder"):
        content(path, tmp_path / "s")


def test_a_second_call_goes_on(tmp_path):
    path = write_zip(tmp_path / "x.zip")
    assert content(path, tmp_path / "s") == FILES
    one, two = tmp_path / "s/a/one.txt", tmp_path / "s/a/b/two.bin"
    two.write_bytes(b"short")
    one.touch()
    before = one.stat().st_mtime_ns
    assert content(path, tmp_path / "s") == FILES
    assert one.stat().st_mtime_ns == before
