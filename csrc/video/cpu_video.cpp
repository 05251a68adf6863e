#include "video/cpu_video.h"

#include <algorithm>
#include <memory>
#include <tuple>
#include <vector>

#include "video/cpu_band.h"
#include "video/cpu_pil.h"
#include "video/cpu_threads.h"
#include "video/weights.h"

namespace aimills::video {
namespace {

// `strip` and `columns` of a band stay in half a megabyte of L2 next to the chunk.
constexpr i64 kScratchBytes = 256 << 10;

struct Table {
  std::vector<int> begin, end;
  std::vector<i64> place;
  std::vector<float> weights;
  int taps;

  // Of outputs [first, store.end).
  Table(const Axis& axis, const StoreAxis& store, int first)
      : taps(static_cast<int>(taps_of(axis)) + kUnroll - 1) {
    weights.resize(i64(store.end - first) * taps);
    for (int i = first; i < store.end; ++i) {
      place.push_back(place_of_sample(store, i));
      fill(axis, i, weights.data() + i64(i - first) * taps);
    }
  }

  void fill(const Axis& axis, i64 i, float* w) {
    const Window window = window_of(axis, i);
    begin.push_back(window.begin);
    end.push_back(window.end);
    double sum = 0.0;
    for (int j = window.begin; j < window.end; ++j)
      sum += w[j - window.begin] = weight_of(axis, i, j);
    for (int j = window.begin; j < window.end; ++j) {
      w[j - window.begin] = static_cast<float>(w[j - window.begin] / sum);
    }
  }

  AxisTable view() const { return {begin.data(), end.data(), place.data(), weights.data(), taps}; }
};

// Tables of the last geometries, kept by the thread that asked: to work them out takes some per
// cent of a frame's time. What no lock guards, a fork can't leave locked.
class KeptTables {
 public:
  std::shared_ptr<const Table> of(const Axis& axis, const StoreAxis& store, int first) {
    for (const Kept& k : kept_) {
      if (k.is_of(axis, store, first)) return k.table;
    }
    Kept made{axis, store, first, std::make_shared<const Table>(axis, store, first)};
    if (made.table->weights.size() <= kMostWeights) {
      if (kept_.size() == kMostTables) kept_.erase(kept_.begin());
      kept_.push_back(made);
    }
    return made.table;
  }

 private:
  static constexpr size_t kMostTables = 16, kMostWeights = 1 << 16;

  struct Kept {
    Axis axis;
    StoreAxis store;
    int first;
    std::shared_ptr<const Table> table;

    static auto key(const Axis& a, const StoreAxis& s, int first) {
      return std::make_tuple(a.first, a.count, a.in, a.out, a.unit, a.filter, a.antialias,
                             a.shifted, a.shift, s.pixel, s.patch, s.group, s.first, s.step,
                             s.pixels, s.patches, s.end, first);
    }

    bool is_of(const Axis& a, const StoreAxis& s, int i) const {
      return key(axis, store, first) == key(a, s, i);
    }
  };

  std::vector<Kept> kept_;
};

thread_local KeptTables kept_tables;

struct Tables {
  std::shared_ptr<const Table> across, down;

  Tables(const Axis& across_axis, const Axis& down_axis, const Params& p)
      : across(kept_tables.of(across_axis, p.across, p.first_col)),
        down(kept_tables.of(down_axis, p.down, p.first_row)) {}

  AxisTables view() const { return {across->view(), down->view()}; }
};

struct Plan {
  int band_rows;
  int bands;  // of one frame
  i64 items;
};

// Floats of Scratch that an output row takes.
struct RowFloats {
  i64 strip, columns, chroma;

  i64 sum() const { return strip + columns + chroma; }
};

RowFloats row_floats(const Params& p, const AxisTables& luma) {
  const i64 capacity = column_capacity(luma.across);  // no less than that of chroma
  if (p.passes == kPlanes) return {2 * kStripCols, 2 * capacity, 2 * i64(cols_of(p))};
  return {3 * kStripCols, 3 * capacity, 0};
}

Plan make_plan(const Params& p, const RowFloats& row, int threads) {
  const i64 row_bytes = i64(sizeof(float)) * row.sum();
  const i64 fits = std::max<i64>(kScratchBytes / row_bytes / kGroupRows, 1) * kGroupRows;
  // As few bands as fit, since each converts some rows of its neighbour too, but a whole number per
  // thread.
  i64 bands = ceil_div(rows_of(p), fits);
  const i64 most = ceil_div(rows_of(p), kGroupRows);
  while (p.frames * bands < 4 * threads && p.frames * bands % threads != 0 && bands < most) ++bands;
  const i64 rows = ceil_div(ceil_div(rows_of(p), bands), kGroupRows) * kGroupRows;
  bands = ceil_div(rows_of(p), rows);
  return {static_cast<int>(rows), static_cast<int>(bands), p.frames * bands};
}

class Buffers {
 public:
  Buffers(const Plan& plan, const RowFloats& row)
      : chunk_(size_t(kChunkRows) * 3 * kStripCols),
        strip_(plan.band_rows * row.strip),
        columns_(plan.band_rows * row.columns + kUnroll * kGroupRows),
        chroma_(plan.band_rows * row.chroma) {}

  Scratch view() { return {chunk_.data(), strip_.data(), columns_.data(), chroma_.data()}; }

 private:
  std::vector<float> chunk_, strip_, columns_, chroma_;
};

bool has_avx2() {
#if defined(AIMILLS_X86)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

struct Code {
  BandFn band;
  PilCode pil;
};

Code code_of_machine() {
#if defined(AIMILLS_X86)
  if (has_avx2()) return {band_avx2, pil_avx2};
#endif
  return {band_baseline, pil_baseline};
}

void run_float(const Params& p, int threads, BandFn band_fn) {
  const Tables luma(across_axis(p), down_axis(p), p);
  const Tables chroma =
      p.passes == kPlanes ? Tables(chroma_across_axis(p), chroma_down_axis(p), p) : luma;
  const RowFloats row = row_floats(p, luma.view());
  const Plan plan = make_plan(p, row, std::max(threads, 1));
  const i64 count = threads_for(p, plan.items, threads);
  std::vector<Buffers> buffers;
  for (i64 i = 0; i < count; ++i) buffers.emplace_back(plan, row);
  share(count, plan.items, [&](i64 thread, i64 item) {
    const int begin = static_cast<int>(item % plan.bands) * plan.band_rows;
    const int end = static_cast<int>(std::min<i64>(begin + i64(plan.band_rows), rows_of(p)));
    band_fn(p, luma.view(), chroma.view(), {item / plan.bands, begin, end}, buffers[thread].view());
  });
}

void pad(const Params& p) {
  for (i64 i = 0; i < pad_items(p); ++i) fill_pad(p, i);
}

}  // namespace

const char* cpu_isa() { return has_avx2() ? "avx2" : "baseline"; }

void run_cpu(const Params& p, int threads, bool baseline) {
  if (p.frames == 0) return;
  const Code code = baseline ? Code{band_baseline, pil_baseline} : code_of_machine();
  if (p.passes == kFloat || p.passes == kPlanes) {
    run_float(p, threads, code.band);
  } else {
    run_pil(p, threads, code.pil);
  }
  pad(p);
}

void run_cpu_ragged(const Params* clips, i64 count, int threads) {
  if (count < 2 * i64(threads)) {
    for (i64 i = 0; i < count; ++i) run_cpu(clips[i], threads, false);
    return;
  }
  share(std::max(threads, 1), count, [&](i64, i64 i) { run_cpu(clips[i], 1, false); });
}

}  // namespace aimills::video
