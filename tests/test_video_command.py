"""`aimills-kernels video`: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from aimills_kernels.cli import main
from aimills_kernels.video import VideoPreprocessor, decode_to_tensor
from aimills_kernels.video.io import jpeg
from aimills_kernels.video.sheet import contact_sheet
from tests.test_video_decode import encoded

Image = pytest.importorskip("PIL.Image")
safetensors = pytest.importorskip("safetensors")
pytest.importorskip("safetensors.torch")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(encoded(count=30))
    return path


def test_tensors_and_picture(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, preview = tmp_path / "new" / "tokens.safetensors", tmp_path / "seen.png"
    argv = ["video", str(clip), "--preset", "qwen2.5-vl", "--num-frames", "4", "--dtype", "float32"]
    assert main([*argv, "--out", str(out), "--preview", str(preview)]) == 0
    said = capsys.readouterr()
    assert "30 frames at 10 a second, 64 x 48, i420, bt709 limited, chroma at left" in said.out
    assert "4 frames sampled, 17 decoded: 0, 7, 15, 22" in said.out
    assert "video_grid_thw [1, 3] int64 = [[2, 20, 28]]" in said.out
    assert said.err == ""

    model = VideoPreprocessor.from_preset("qwen2.5-vl", dtype=torch.float32)
    expected = decode_to_tensor(clip, model, num_frames=4)
    with safetensors.safe_open(out, "pt") as file:
        assert set(file.keys()) == {"pixel_values_videos", "video_grid_thw"}
        for key in file.keys():  # noqa: SIM118  (it is no dict)
            assert torch.equal(file.get_tensor(key), expected[key])
        held = file.metadata()
    assert held["preprocessor"] == "qwen2.5-vl"
    assert json.loads(held["video"])["frames_indices"] == [0, 7, 15, 22]

    picture = Image.open(preview)
    (frames,) = model.levels(expected)
    assert picture.size == (4 * (28 * 14 + 4) + 4, 20 * 14 + 4 + 4)
    for i, frame in enumerate(frames):
        left = 4 + i * (28 * 14 + 4)
        box = (left, 4, left + 28 * 14, 4 + 20 * 14)
        data = torch.frombuffer(bytearray(picture.crop(box).tobytes()), dtype=torch.uint8)
        assert torch.equal(data.view(20 * 14, 28 * 14, 3), frame.permute(1, 2, 0))


def test_tensors_lie_beside_the_picture(
    clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["video", str(clip), "--preset", "clip", "--num-frames", "2"]
    assert main([*argv, "--preview", str(clip.parent / "seen.png")]) == 0
    assert sorted(p.name for p in clip.parent.iterdir()) == [
        "clip.mp4", "seen.png", "seen.safetensors"
    ]  # fmt: skip
    with safetensors.safe_open(clip.parent / "seen.safetensors", "pt") as file:
        assert file.get_tensor("pixel_values").shape == (2, 3, 224, 224)
    assert main(argv) == 0
    assert len(list(clip.parent.iterdir())) == 3
    capsys.readouterr()
    both = str(clip.parent / "x.png")
    assert main([*argv, "--preview", both, "--out", both]) == 3
    assert "--preview and --out must be two files, got" in capsys.readouterr().err
    without(monkeypatch)
    assert main([*argv, "--preview", str(clip.parent / "y.png")]) == 0
    assert "note: the tensors are not written: safetensors is not" in capsys.readouterr().out
    assert not (clip.parent / "y.safetensors").exists()


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".png", "PNG"), (".jpg", "JPEG"), (".jpeg", "JPEG"), (".JPG", "JPEG")]
)
def test_picture_is_what_its_suffix_says(suffix: str, kind: str, clip: Path) -> None:
    preview = clip.parent / f"seen{suffix}"
    argv = ["video", str(clip), "--preset", "clip", "--num-frames", "2"]
    assert main([*argv, "--preview", str(preview)]) == 0
    picture = Image.open(preview)
    assert picture.format == kind
    model = VideoPreprocessor.from_preset("clip")
    drawn, _ = contact_sheet(model.levels(decode_to_tensor(clip, model, num_frames=2)))
    assert (picture.height, picture.width, 3) == drawn.shape
    assert apart(picture, drawn) <= (8 if kind == "JPEG" else 0)


def apart(picture: Any, drawn: torch.Tensor) -> int:
    held = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(drawn.shape)
    return int((held.int() - drawn.int()).abs().max())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 53), (300, 501)])
def test_jpeg_of_pure_colours(height: int, width: int) -> None:
    """Of a flat picture no step of JPEG's loses anything but the rounding of its colour."""
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (16, 99, 235)):
        drawn = torch.tensor(colour, dtype=torch.uint8).expand(height, width, 3)
        picture = Image.open(io.BytesIO(jpeg(drawn)))
        assert picture.size == (width, height)
        assert picture.info["jfif"]
        assert apart(picture, drawn) <= 2


def test_jpeg_too_large() -> None:
    with pytest.raises(ValueError, match="at most 65500 rows and columns, and the picture is"):
        jpeg(torch.zeros(1, 65501, 3, dtype=torch.uint8))


@pytest.mark.parametrize("option", ["--preview", "--out"])
@pytest.mark.parametrize("read", ["clip.mp4", "config.json", "link"])
def test_what_is_read_is_not_overwritten(
    option: str, read: str, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = clip.parent / "config.json"
    config.write_text('{"image_processor_type": "CLIPImageProcessor"}')
    (clip.parent / "link").symlink_to(clip)
    before = clip.read_bytes(), config.read_bytes()
    argv = ["video", str(clip), "--config", str(config), option, str(clip.parent / read)]
    assert main(argv) == 3
    said = capsys.readouterr().err
    assert f"{option} would overwrite the {'configuration' if 'json' in read else 'video'}" in said
    assert (clip.read_bytes(), config.read_bytes()) == before


def test_weights_beside_the_picture_are_kept(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the option did not name is overwritten only where this command wrote it."""
    argv = ["video", str(clip), "--preset", "clip", "--num-frames", "1"]
    argv += ["--preview", str(clip.parent / "model.png")]
    weights = clip.parent / "model.safetensors"
    for content in (safetensors.torch.save({"w": torch.ones(1)}), b"x"):
        weights.write_bytes(content)
        assert main(argv) == 3
        assert "which this command didn't write; --out says where" in capsys.readouterr().err
        assert weights.read_bytes() == content
    weights.unlink()
    assert main(argv) == main(argv) == 0


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "safetensors" else found(name)
    )


def test_configuration_and_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(encoded(count=3, tags={}))
    config = tmp_path / "preprocessor_config.json"
    config.write_text(json.dumps({"image_processor_type": "CLIPImageProcessor", "size": 32,
                                  "crop_size": 32}))  # fmt: skip
    assert main(["video", str(clip), "--config", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "pixel_values [3, 3, 32, 32] bfloat16" in said
    assert "note: the video" in said
    assert "doesn't say its colour matrix; bt601 is taken" in said
    assert "; --color-space says which it is" in said
    config.write_text('{"video_processor_type": "VideoMAEVideoProcessor", "num_frames": 2}')
    assert main(["video", str(clip), "--config", str(config)]) == 0
    said = capsys.readouterr()
    assert "note: the configuration has num_frames and no do_sample_frames" in said.out
    assert "3 frames sampled" in said.out
    assert said.err == ""


REFUSED = [
    ("video", "required: file"),
    ("video CLIP", "one of the arguments --preset --config is required"),
    ("video CLIP --preset qwen9", "unknown preset 'qwen9'; there are qwen2-vl"),
    ("video CLIP --config /no/such.json", "can't be read: No such file"),
    ("video /no/such.mp4 --preset clip", "the video '/no/such.mp4' can't be read"),
    ("video CLIP --preset clip --num-frames 31", "31 frames are asked for, and the video has only"),
    ("video CLIP --preset clip --num-frames x", "invalid int value: 'x'"),
    ("video CLIP --preset clip --num-frames 2 --fps 1", "exclude each other"),
    ("video CLIP --preset clip --fps 0", "the fps to sample at must be"),
    ("video CLIP --preset clip --device tpu", "unknown device 'tpu'"),
    ("video CLIP --preset clip --dtype int8", "invalid choice: 'int8'"),
    ("video CLIP --preset clip --rotate 45", "invalid choice: 45"),
    ("video CLIP --preset clip --color-space rec", "color_space must be"),
    ("video CLIP --preset clip --preview /tmp", "--preview '/tmp' is a folder"),
    (
        "video /no/such.mp4 --preset clip --preview seen.gif",
        "--preview must be a file that ends in .png, .jpg, .jpeg, got 'seen.gif'",
    ),
    ("video CLIP --preset clip --preview seen", ".png, .jpg, .jpeg, got 'seen'"),
    ("video CLIP --preset clip --preview x.safetensors", "--preview must be a file that ends in"),
    ("video EMPTY --preset clip", "the file should name a path, it is empty"),
    ("video CLIP --config EMPTY", "--config should name a path, it is empty"),
    ("video CLIP --preset clip --preview EMPTY", "--preview should name a file, it is empty"),
    ("video CLIP --preset clip --out EMPTY", "--out should name a file, it is empty"),
    ("video CLIP --preset clip --out /dev/null/x", "can't write to the folder"),
]


@pytest.mark.parametrize(("argv", "says"), REFUSED)
def test_refused(argv: str, says: str, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"CLIP": str(clip), "EMPTY": ""}
    assert main([given.get(part, part) for part in argv.split()]) == 3
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_without_safetensors(
    clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch)
    argv = ["video", str(clip), "--preset", "clip", "--out", str(clip.parent / "x")]
    assert main(argv) == 3
    assert "--out needs safetensors: safetensors is not installed" in capsys.readouterr().err
    assert not (clip.parent / "x").exists()


def test_damaged_video_leaves_no_file(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip.write_bytes(clip.read_bytes()[:500])
    out = clip.parent / "x.safetensors"
    assert main(["video", str(clip), "--preset", "clip", "--out", str(out)]) == 3
    assert "is it truncated?" in capsys.readouterr().err
    assert [p.name for p in clip.parent.iterdir()] == ["clip.mp4"]


def test_errors_advise_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tmp_path / "clip.mkv"
    clip.write_bytes(encoded(form="matroska", count=3, tags={"color_trc": 10}))
    assert main(["video", str(clip), "--preset", "clip"]) == 3
    said = capsys.readouterr().err
    assert "has the transfer" in said
    assert "; --transfer says which to take all the same" in said
    assert main(["video", str(clip), "--preset", "clip", "--transfer", "sdr"]) == 0


def test_turned_and_mirrored(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A matrix that is no quarter turn, in the track's header, and what is done all the same."""
    data = bytearray(clip.read_bytes())
    at = data.index(b"tkhd") + 44  # ISO/IEC 14496-12, 8.3.2, version 0
    assert struct.unpack_from(">5i", data, at) == (65536, 0, 0, 0, 65536)
    struct.pack_into(">5i", data, at, 46341, 46341, 0, -46341, 46341)
    clip.write_bytes(data)
    argv = ["video", str(clip), "--preset", "clip", "--num-frames", "1"]
    assert main(argv) == 3
    assert "no quarter turn; --rotate and --flip say what to do" in capsys.readouterr().err
    assert main([*argv, "--rotate", "90", "--flip"]) == 0
    assert "chroma at left, turned by 90 degrees, mirrored" in capsys.readouterr().out
    assert main([*argv, "--rotate", "0", "--no-flip"]) == 0
    assert "turned by" not in capsys.readouterr().out


def test_sheet_of_many_frames() -> None:
    frames = torch.arange(250, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 300, 508)
    drawn, said = contact_sheet([frames])
    assert said == "107 of 250 frames"
    assert drawn.shape == (27 * 304 + 4, 4 * 512 + 4, 3)
    assert drawn[4 + 304, 4 + 512].tolist() == [11] * 3  # the sixth: 5 * 250 // 107
    small, said = contact_sheet([frames[:1], frames[1:2, :, :3, :5]])
    assert said == "2 frames"
    assert small.shape == (308, 1028, 3)
