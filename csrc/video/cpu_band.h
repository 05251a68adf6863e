#pragma once
// What one thread of the CPU path works on. No standard headers: the kernel behind `BandFn` is
// compiled once per instruction set.

#include "video/pil.h"

namespace aimills::video {

constexpr int kStripCols = 64;  // source columns converted together: one chunk stays in L1
constexpr int kChunkRows = 24;  // source rows converted before they are filtered
constexpr int kUnroll = 4;      // taps along the columns are done by fours; weights end in zeros
constexpr int kGroupRows = 8;   // output rows whose columns are filtered together, one per lane

// Filter windows and normalised weights along one axis, of the outputs that are stored; unused
// weights are zero.
struct AxisTable {
  const int* begin;
  const int* end;
  const i64* place;      // of each output, in elements
  const float* weights;  // [out][taps]
  int taps;
};

// Of samples that are filtered alike.
struct AxisTables {
  AxisTable across, down;
};

// Columns that a strip adds to those which are kept from the one before.
AIMILLS_HD int column_capacity(const AxisTable& across) { return across.taps + kStripCols; }

// Scratch of one thread for bands of at most `rows` output rows, of up to three channels.
struct Scratch {
  float* chunk;    // [kChunkRows][channels][kStripCols]
  float* strip;    // [rows][channels][kStripCols], filtered along the rows
  float* columns;  // [rows / 8][channels][column_capacity][8], the same transposed: a lane is a row
  float* chroma;   // of kPlanes: [rows / 8][columns][2][8], filtered U and V in codes
};

struct Band {
  i64 frame;
  int row_begin, row_end;
};

// `chroma` is of kPlanes; without it `luma` is that of pixels.
using BandFn = void (*)(const Params&, const AxisTables& luma, const AxisTables& chroma,
                        const Band&, const Scratch&);

// Source rows [begin, end) of the 64 columns at `col`, whole levels as [row][3][kStripCols] with
// the even columns before the odd ones; columns past the edge repeat the last one.
using ConvertFn = void (*)(const Params&, i64 frame, int begin, int end, int col, float* chunk);

// Of each output: its window of samples, and where its weights start; they end in zeros.
struct PilWindows {
  const int *begin, *end;
  const i64* first;
  const int* weights;
};

// What Pillow's modes are made of, all in integers.
struct PilCode {
  ConvertFn convert;
  void (*join)(const float* levels, u8* out);  // one channel of a strip, in order
  // Of both: up to seven bytes past the last sample are read, and past the last output written.
  void (*across)(const u8* samples, const PilWindows&, int count, u8* out);
  void (*down)(const u8* const* rows, const int* weights, int taps, int count, u8* out);
};

extern const PilCode pil_baseline, pil_avx2;

void band_baseline(const Params&, const AxisTables&, const AxisTables&, const Band&,
                   const Scratch&);
void band_avx2(const Params&, const AxisTables&, const AxisTables&, const Band&, const Scratch&);

}  // namespace aimills::video
