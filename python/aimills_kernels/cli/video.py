"""`video`: a file to the tensors that a model takes, and a picture of what the model sees."""

from __future__ import annotations

import argparse
import json
import re
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

from aimills_kernels.cli._errors import OK, UsageError

_DTYPES = ("bfloat16", "float16", "float32", "float8_e4m3fn", "uint8")
_LISTED = 12  # frame numbers on the terminal


def arguments(made: argparse.ArgumentParser) -> None:
    from aimills_kernels.cli import _parser

    made.add_argument("file", help="the video")
    rule = made.add_mutually_exclusive_group(required=True)
    rule.add_argument("--preset", metavar="NAME", help="qwen2.5-vl, qwen3-vl, siglip, clip, ...")
    rule.add_argument(
        "--config", metavar="PATH", help="a checkpoint's folder, or its preprocessor_config.json"
    )
    made.add_argument(
        "--out", metavar="FILE",
        help="write the tensors here, as safetensors; by default beside the --preview, if any",
    )  # fmt: skip
    made.add_argument(
        "--preview", metavar="FILE", help="write what the model sees here: .png, .jpg or .jpeg"
    )
    made.add_argument("--num-frames", type=int, metavar="N", help="frames to sample")
    made.add_argument("--fps", type=float, metavar="N", help="frames to sample of a second")
    made.add_argument("--dtype", choices=_DTYPES, default="bfloat16", help="default %(default)s")
    made.add_argument("--device", type=_parser.device, default="auto", help=_parser.DEVICE)
    for option, values in (
        ("color-space", "bt601, bt709, bt2020"),
        ("color-range", "limited, full"),
        ("chroma-location", "left, center, topleft"),
        ("transfer", "sdr, pq, hlg"),
    ):
        made.add_argument(
            f"--{option}", metavar="NAME", help=f"{values}; what the stream says by default"
        )
    made.add_argument(
        "--rotate",
        type=int,
        choices=(0, 90, 180, 270),
        help="degrees clockwise; likewise",
    )
    made.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, help="mirror, before that; likewise"
    )


def run(options: Namespace) -> int:
    from aimills_kernels._files import write_whole
    from aimills_kernels.cli import _ui
    from aimills_kernels.video import sheet

    for name, text in (("the file", options.file), ("--config", options.config)):
        if text == "":
            raise UsageError(f"{name} should name a path, it is empty")
    out, picture = _files(options)
    model, batch = _decoded(options)
    meta = batch.pop("video_metadata")
    _tell(options.file, model, batch, meta)
    if picture is not None:
        drawn, frames = sheet.contact_sheet(model.levels(batch))
        write_whole(picture, sheet.PICTURES[picture.suffix.lower()](drawn))
        _ui.say(f"wrote {picture}: {frames}, {drawn.shape[1]} x {drawn.shape[0]} pixels")
    if out is not None:
        write_whole(out, _safetensors(batch, model.name, meta))
        _ui.say(f"wrote {out}: {out.stat().st_size / 1e6:.1f} MB")
    elif picture is not None:
        _ui.say(f"note: the tensors are not written: {_missing()}", "yellow")
    return OK


def _decoded(options: Namespace) -> tuple[Any, dict[str, Any]]:
    """The preprocessor, and its result for the file."""
    import torch

    from aimills_kernels.cli import _choose, _ui
    from aimills_kernels.video import VideoError, VideoPreprocessor, decode_to_tensor

    dtype = getattr(torch, options.dtype)
    with _ui.progress("video") as step, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if options.preset is not None:
            model = VideoPreprocessor.from_preset(options.preset, dtype=dtype)
        else:
            model = VideoPreprocessor.from_hf_config(options.config, dtype=dtype)
        try:
            batch = decode_to_tensor(
                Path(options.file), model, num_frames=options.num_frames, fps=options.fps,
                device=_choose.devices(options.device)[0], color_space=options.color_space,
                color_range=options.color_range, chroma_location=options.chroma_location,
                transfer=options.transfer, rotate=options.rotate, flip=options.flip, progress=step,
            )  # fmt: skip
        except VideoError as error:
            raise UsageError(_by_option(str(error))) from error
    for warning in said:
        _ui.say(f"note: {_by_option(str(warning.message))}", "yellow")
    return model, batch


def _by_option(text: str) -> str:
    """Arguments that the text advises, by the names that they have here."""
    return re.sub(
        r"\b(color_space|color_range|chroma_location|transfer|rotate|flip)=(?= )",
        lambda found: f"--{found[1].replace('_', '-')}",
        text,
    )


def _files(options: Namespace) -> tuple[Path | None, Path | None]:
    """Those of the tensors and of the picture."""
    from aimills_kernels.cli import _choose
    from aimills_kernels.video.sheet import PICTURES

    out, picture = (
        _choose.output_file(text, option) if text is not None else None
        for text, option in ((options.out, "--out"), (options.preview, "--preview"))
    )
    if out is not None and (reason := _missing()):
        raise UsageError(f"--out needs safetensors: {reason}")
    beside = None
    if out is None and picture is not None and _missing() is None:
        out = beside = picture.with_suffix(".safetensors")
    for option, path in (("--out", out), ("--preview", picture)):
        for what, read in (("video", options.file), ("configuration", options.config)):
            if path is not None and read is not None and path.resolve() == Path(read).resolve():
                raise UsageError(f"{option} would overwrite the {what} {read!r}")
    if picture is not None and picture.suffix.lower() not in PICTURES:
        raise UsageError(
            f"--preview must be a file that ends in {', '.join(PICTURES)}, got {options.preview!r}"
        )
    if out is not None and picture is not None and out.resolve() == picture.resolve():
        raise UsageError(f"--preview and --out must be two files, got {str(out)!r} for both")
    if beside is not None:
        _check_beside(beside)
    return out, picture


def _check_beside(out: Path) -> None:
    """Where nobody named the file of tensors, one that this command didn't write is kept: a folder
    may hold a model's weights."""
    from safetensors import SafetensorError, safe_open

    if not out.exists():
        return
    try:
        with safe_open(out, "pt") as file:
            ours = {"preprocessor", "video"} <= set(file.metadata() or ())
    except (SafetensorError, OSError):
        ours = False
    if not ours:
        raise UsageError(
            f"the tensors would overwrite {str(out)!r}, which this command didn't write; --out "
            "says where they go"
        )


def _missing() -> str | None:
    from importlib import util

    if util.find_spec("safetensors") is not None:
        return None
    return "safetensors is not installed (pip install aimills-kernels[video])"


def _safetensors(batch: dict[str, Any], name: str, meta: dict[str, Any]) -> bytes:
    from safetensors.torch import save

    tensors = {key: value.contiguous().cpu() for key, value in batch.items()}
    return save(tensors, metadata={"preprocessor": name, "video": json.dumps(meta)})


def _tell(file: str, model: Any, batch: dict[str, Any], meta: dict[str, Any]) -> None:
    from aimills_kernels.cli import _ui

    rate = f" at {meta['fps']:.6g} a second" if meta["fps"] else ""
    hdr = "" if meta["transfer"] == "sdr" else f" {meta['transfer'].upper()} mapped to SDR"
    turned = f", turned by {meta['rotate']} degrees" if meta["rotate"] else ""
    turned += ", mirrored" if meta["flip"] else ""
    _ui.say(
        f"{file}: {meta['total_num_frames']} frames{rate}, {meta['width']} x {meta['height']}, "
        f"{meta['format']}, {meta['color_space']} {meta['color_range']}{hdr}, chroma at "
        f"{meta['chroma_location']}{turned}"
    )
    _ui.say(repr(model))
    chosen = meta["frames_indices"]
    more = f", ... {chosen[-1]}" if len(chosen) > _LISTED else ""
    listed = ", ".join(map(str, chosen[:_LISTED])) + more
    _ui.say(f"{len(chosen)} frames sampled, {meta['frames_decoded']} decoded: {listed}")
    for key, value in batch.items():
        held = f" = {value.tolist()}" if value.numel() <= 12 else ""
        dtype = str(value.dtype).removeprefix("torch.")
        _ui.say(f"{key} {list(value.shape)} {dtype}{held}")
