#pragma once
// Pillow's filters on the GPU: whole weights in 2^-22, sums of integers, levels between the passes.
//
// Weights come out of double precision and of the C library's sine, which a GPU has not, so the
// host makes a table of each axis (pil_table.h). Levels are rounded behind the first pass, so its
// order counts: where Pillow 13 goes down first, the picture is turned, and what goes across is its
// rows.

#include "video/weights.h"

namespace aimills::video {

constexpr int kPilBits = 22;  // of a weight's fraction

// Of samples `first` and on. The table holds the length of a line, and for each output a line:
// where its window begins and ends behind `first`, and the weights of the window.
struct PilAxis {
  int first, last;  // `last` of the outputs that are stored
  const int* table;
};

AIMILLS_HD const int* line_of(const PilAxis& a, i64 i) {
  return a.table + 1 + smaller<i64>(i, a.last) * a.table[0];
}

AIMILLS_HD Window window_of(const PilAxis& a, i64 i) {
  const int* line = line_of(a, i);
  return {a.first + line[0], a.first + line[1]};
}

// Of sample `j`, which lies in the window of output `i`.
AIMILLS_HD int weight_of(const PilAxis& a, i64 i, i64 j) {
  const int* line = line_of(a, i);
  return line[2 + j - a.first - line[0]];
}

AIMILLS_HD int pil_level(int sum) {
  return smaller(larger((sum + (1 << (kPilBits - 1))) >> kPilBits, 0), 255);
}

// Pixels as `Loader` has them.
template <class Loader>
struct Pil {
  using Value = int;
  static constexpr int kChannels = 3, kFirst = 0;
  AIMILLS_HD_MEMBER static PilAxis down(const Params& p) {
    return {p.top, p.down.end - 1, p.down_table};
  }
  AIMILLS_HD_MEMBER static PilAxis across(const Params& p) {
    return {p.left, p.across.end - 1, p.across_table};
  }
  AIMILLS_HD_MEMBER static u32 channel(u32 word, int c) { return Loader::channel(word, c); }
  AIMILLS_HD_MEMBER static void load_pair(const Params& p, i64 frame, int row, int col, u32* out) {
    Loader::load_pair(p, frame, row, col, out);
  }
  AIMILLS_HD_MEMBER static void end_row(int* sums) {
    for (int c = 0; c < kChannels; ++c) sums[c] = pil_level(sums[c]);
  }
  AIMILLS_HD_MEMBER static int scaled(int weight, const int*) { return weight; }
  AIMILLS_HD_MEMBER static int mean(int sum, int) { return pil_level(sum); }
  AIMILLS_HD_MEMBER static float level(const Params&, const int* value, int c) {
    return static_cast<float>(value[c]);
  }
};

}  // namespace aimills::video
