"""A picture that moves: a mill whose sails turn, above colour bars."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_HUB = (1.18, 0.42)  # in heights of the picture, like all lengths here
_REACH = 0.36
_GROUND = (
    # level, height and colour of each range of hills
    (0.62, 0.05, (0.30, 0.52, 0.42)),
    (0.74, 0.04, (0.16, 0.38, 0.25)),
)


def moving_picture(
    count: int, height: int = 1080, width: int = 1920
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """u8 planes y, u, v of each frame: BT.709, limited range, 4:2:0."""
    y = torch.linspace(0, 1, height).view(-1, 1)
    x = torch.linspace(0, width / height, width).view(1, -1)
    still = _land(x, y)
    near = [
        slice(max(0, int((at - _REACH) * height)), int((at + _REACH) * height)) for at in _HUB[::-1]
    ]
    for index in range(count):
        scene = still.clone()
        window = scene[:, near[0], near[1]]
        window.copy_(_sails(window, x[:, near[1]], y[near[0]], 0.35 + 0.09 * index))
        yield to_420(scene)


def _land(x: Tensor, y: Tensor) -> Tensor:
    """[3, height, width] f32 in [0, 1]."""
    sky = [base + slope * y + 0 * x for base, slope in ((0.35, 0.55), (0.55, 0.28), (0.85, -0.15))]
    sun = (0.13 - ((x - 0.42) ** 2 + (y - 0.3) ** 2).sqrt()) * 160
    scene = _paint(torch.stack(sky), sun, (1.0, 0.84, 0.5))
    for level, depth, color in _GROUND:
        hill = level + depth * torch.sin(3.1 * x + 9 * level)
        scene = _paint(scene, (y - hill) * 400, color)
    widening = 0.035 + 0.06 * (y - _HUB[1])
    tower = torch.minimum(
        widening - (x - _HUB[0]).abs(), torch.minimum(y - _HUB[1] + 0.03, 0.8 - y)
    )
    scene = _paint(scene, tower * 500, (0.93, 0.90, 0.84))
    return _bars(scene)


def _bars(scene: Tensor) -> Tensor:
    colors = [(r, g, b) for g in (0.75, 0.0) for r in (0.75, 0.0) for b in (0.75, 0.0)]
    _, height, width = scene.shape
    for index, color in enumerate(colors):
        left, right = (width * i // 8 for i in (index, index + 1))
        scene[:, height * 9 // 10 :, left:right] = torch.tensor(color).view(3, 1, 1)
    return scene


def _sails(scene: Tensor, x: Tensor, y: Tensor, angle: float) -> Tensor:
    for quarter in range(4):
        turn = torch.tensor(angle + quarter * torch.pi / 2)
        along = (x - _HUB[0]) * turn.cos() + (y - _HUB[1]) * turn.sin()
        across = (y - _HUB[1]) * turn.cos() - (x - _HUB[0]) * turn.sin()
        reach = torch.minimum(along - 0.05, 0.33 - along)
        sail = torch.minimum(reach, 0.035 - (across - 0.03).abs())
        lattice = 0.5 + 0.5 * torch.sin(along * 190).sign() * torch.sin(across * 190).sign()
        scene = _paint(scene, sail * 500, (0.75, 0.22, 0.16), 0.55 + 0.45 * lattice)
        spar = torch.minimum(torch.minimum(along, 0.34 - along), 0.006 - across.abs())
        scene = _paint(scene, spar * 500, (0.25, 0.16, 0.12))
    return scene


def _paint(
    scene: Tensor, distance: Tensor, color: tuple[float, float, float], share: Tensor | float = 1.0
) -> Tensor:
    """Paint where `distance` (in pixels, about) is positive; the edge is one pixel soft."""
    cover = (distance + 0.5).clamp(0, 1) * share
    return torch.lerp(scene, torch.tensor(color).view(3, 1, 1).expand_as(scene), cover)


def to_420(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """BT.709 (ITU-R BT.709-6, item 3), quantised to limited range, chroma averaged 2 x 2."""
    r, g, b = rgb
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
    chroma = torch.stack([(b - luma) / 1.8556, (r - luma) / 1.5748])
    u, v = torch.nn.functional.avg_pool2d(chroma.unsqueeze(0), 2, ceil_mode=True)[0]
    return _levels(16 + 219 * luma), _levels(128 + 224 * u), _levels(128 + 224 * v)


def _levels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)
