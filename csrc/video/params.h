#pragma once

#include "aimills/convert.h"
#include "aimills/hd.h"

namespace aimills::video {

enum ColorSpace : int { kBt601 = 0, kBt709 = 1 };
enum ColorRange : int { kLimited = 0, kFull = 1 };
enum ChromaLocation : int { kLeft = 0, kCenter = 1 };
enum ChromaUpsampling : int { kLinear = 0, kNearest = 1 };
enum Interpolation : int { kBilinear = 0, kBicubic = 1 };

// NV12 frames to [frames, 3, out_height, out_width]. Strides are in bytes. The Python provider for
// NVRTC packs the same layout; a test compares the two byte by byte.
struct Params {
  const u8* y;
  const u8* uv;
  void* out;
  i64 frames, height, width, out_height, out_width;
  i64 y_frame, y_row, uv_frame, uv_row;
  int color_space, color_range, chroma_location, chroma_upsampling, interpolation, dtype;
  // out = (level - mean) * scale with mean in levels. Two floats hold the mean, so that a level
  // close to it keeps all its digits.
  float mean_hi[3], mean_lo[3], scale[3];
};

static_assert(sizeof(Params) == 160, "kernels/video/problem.py packs this layout");

AIMILLS_HD float normalize(const Params& p, int channel, float level) {
  return (level - p.mean_hi[channel] - p.mean_lo[channel]) * p.scale[channel];
}

}  // namespace aimills::video
