#pragma once

#include "aimills/convert.h"
#include "aimills/hd.h"

namespace aimills::video {

enum Source : int {
  kYuv420,
  kYuv420Wide,
  kYuv422,
  kYuv422Wide,
  kYuv444,
  kYuv444Wide,
  kRgb,
  kRgbWide
};
AIMILLS_HD constexpr bool is_wide(int source) { return (source & 1) != 0; }

enum Filter : int { kNearest, kArea, kBilinear, kBicubic, kLanczos };
// kPlanes: Y, U and V are filtered, each in its own size, and become RGB behind the filter.
// kPilTurned: kPilDown with rows and columns exchanged, so that what goes first is across.
enum Passes : int { kFloat, kPilAcross, kPilDown, kPlanes, kPilTurned };
enum Transfer : int { kSdr, kPq, kHlg };

// Samples of one component; strides are in bytes.
struct Plane {
  const u8* data;
  i64 frame, row, col;
};

// Levels from codes; the chroma factors apply to sixteenths of a code. Of RGB `y_scale` is for all
// three channels, and the rest is not used.
struct Color {
  float y_scale, y_shift, r_v, g_u, g_v, b_u;
};

// Where along one axis of the output sample i goes: first + step i is its position, and a position
// lies in a patch, which lies in a group of patches. Without patches a patch is larger than any
// axis. Strides are in elements. Samples up to `end` come in, `length` positions exist.
struct StoreAxis {
  i64 pixel, patch, group;
  int first, step;
  int pixels, patches;
  int end, length;
};

// kernels/video/problem.py packs this struct and says what the options mean.
struct Params {
  Plane planes[3];  // Y, U, V or R, G, B
  void* out;
  i64 frames;
  i64 clip, channel;             // strides of the output, in elements
  StoreAxis time, down, across;  // `time` of one clip; the last frame fills up what is left of it
  int height, width;             // of the source
  // What the crop is resized to. Of that, rows from `first_row` to `down.end` and columns from
  // `first_col` to `across.end` are stored; with numbers of the whole, so that filters are its own.
  int resized_height, resized_width, first_row, first_col;
  int top, left, crop_height, crop_width;
  int source, shift;  // a code is a stored value >> shift
  int chroma_zero;    // in sixteenths of a code
  // Quarters that the outer chroma neighbour takes: above even rows, below odd ones; left of even
  // columns, right of odd ones.
  int even_row, odd_row, even_col, odd_col;
  int filter, antialias, passes, dtype, pad_level;
  int transfer, jittered;
  Color color;
  // out = (level - mean) * scale with mean in levels. Two floats hold the mean, so that a level
  // close to it keeps all its digits.
  float mean_hi[3], mean_lo[3], scale[3];
  // Rows of three factors and an offset: where `jittered` on levels; of kPlanes on codes, which
  // gives levels.
  float jitter[12];
  // Of Pillow's modes on a GPU, in its memory: see pil.h.
  const int *down_table, *across_table;
};

static_assert(sizeof(Params) == 496, "kernels/video/problem.py packs this layout");

// Makes the compiler read parameters anew: where they lie in shared memory it would keep more of
// them in registers than there are.
AIMILLS_HD void read_anew() {
#if defined(__CUDA_ARCH__)
  asm volatile("" ::: "memory");
#endif
}

AIMILLS_HD float normalize(const Params& p, int channel, float level) {
  return (level - p.mean_hi[channel] - p.mean_lo[channel]) * p.scale[channel];
}

template <class T>
AIMILLS_HD void exchange(T& a, T& b) {
  const T kept = a;
  a = b;
  b = kept;
}

// Makes kPilTurned of kPilDown.
AIMILLS_HD void turn(Params& p) {
  p.passes = kPilTurned;
  for (Plane& plane : p.planes) exchange(plane.row, plane.col);
  exchange(p.down, p.across);
  exchange(p.height, p.width);
  exchange(p.resized_height, p.resized_width);
  exchange(p.first_row, p.first_col);
  exchange(p.top, p.left);
  exchange(p.crop_height, p.crop_width);
  exchange(p.even_row, p.even_col);
  exchange(p.odd_row, p.odd_col);
  exchange(p.down_table, p.across_table);
}

// ---- the size of what is stored, without padding

AIMILLS_HD int rows_of(const Params& p) { return p.down.end - p.first_row; }
AIMILLS_HD int cols_of(const Params& p) { return p.across.end - p.first_col; }

// ---- the place of an output

AIMILLS_HD i64 place_at(const StoreAxis& a, int position) {
  const int patch = position / a.pixels, group = patch / a.patches;
  return (position - patch * a.pixels) * a.pixel + (patch - group * a.patches) * a.patch +
         group * a.group;
}

AIMILLS_HD i64 place_of_sample(const StoreAxis& a, int i) {
  return place_at(a, a.first + a.step * i);
}

AIMILLS_HD i64 place_of_frame(const Params& p, i64 frame) {
  const i64 clip = frame / p.time.end;
  return clip * p.clip + place_at(p.time, static_cast<int>(frame - clip * p.time.end));
}

// How often a frame is stored: the last one of a clip fills up the last patch in time. Copies lie
// `time.pixel` apart.
AIMILLS_HD int copies_of_frame(const Params& p, i64 frame) {
  return (frame + 1) % p.time.end == 0 ? 1 + p.time.length - p.time.end : 1;
}

// ---- what is padded: positions around the picture, as many as (down.length, across.length) has

AIMILLS_HD bool covers(const StoreAxis& a, int begin, int position) {
  const int i = (position - a.first) * a.step;
  return i >= begin && i < a.end;
}

// Item `i` of frames x down.length x across.length; those of the picture itself are left alone.
AIMILLS_HD void fill_pad(const Params& p, i64 i) {
  const i64 line = i / p.across.length;
  const i64 frame = line / p.down.length;
  const int col = static_cast<int>(i - line * p.across.length);
  const int row = static_cast<int>(line - frame * p.down.length);
  if (covers(p.down, p.first_row, row) && covers(p.across, p.first_col, col)) return;
  i64 at = place_of_frame(p, frame) + place_at(p.down, row) + place_at(p.across, col);
  for (int copy = copies_of_frame(p, frame); copy > 0; --copy, at += p.time.pixel) {
    AIMILLS_ROLLED
    for (int c = 0; c < 3; ++c) {
      store_as(p.out, at + c * p.channel, p.dtype,
               normalize(p, c, static_cast<float>(p.pad_level)));
    }
  }
}

AIMILLS_HD i64 pad_items(const Params& p) {
  const bool padded = p.down.length > rows_of(p) || p.across.length > cols_of(p);
  return padded ? p.frames * p.down.length * p.across.length : 0;
}

}  // namespace aimills::video
