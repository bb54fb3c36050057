"""Which pictures a command takes, and where it writes."""

from pathlib import Path

import pytest

from app.cli.inputs import find_inputs, write_whole
from app.errors import BadInput


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folders_are_searched_with_all_below_them(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "photos" / "out"
    wanted = [photos / "a.JPG", photos / "b.tiff", photos / "deep" / "er" / "c.webp"]
    unwanted = [photos / "notes.txt", photos / ".hidden" / "d.png", out / "a-1.png"]
    touch(*wanted, *unwanted)
    found = find_inputs([photos, photos / "a.JPG"], out)
    assert [each.path for each in found] == wanted
    assert found[-1].output(out, 7, "png") == out / "deep" / "er" / "c-7.png"


def test_a_file_is_taken_whatever_its_name_is(tmp_path: Path) -> None:
    touch(tmp_path / "photo")
    assert [each.path for each in find_inputs([tmp_path / "photo"], tmp_path)] == [
        tmp_path / "photo"
    ]


def test_inputs_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a/x.png", "b/x.jpg", "c/x.jpg", "d/x.jpg")]
    touch(*paths)
    outputs = [each.output(Path(), 1, "png").name for each in find_inputs(paths, tmp_path / "out")]
    assert outputs == ["x-1.png", "x.jpg-1.png", "x-2.jpg-1.png", "x-3.jpg-1.png"]


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=str(tmp_path)):
        find_inputs([tmp_path], tmp_path / "out")


def test_a_file_that_cannot_be_written_whole_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_path: Path, _target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.png", b"data")
    assert list(tmp_path.iterdir()) == []
