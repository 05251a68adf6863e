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

  Table(const Axis& axis, const StoreAxis& store)
      : taps(static_cast<int>(taps_of(axis)) + kUnroll - 1) {
    begin.resize(axis.out);
    end.resize(axis.out);
    place.resize(axis.out);
    weights.resize(axis.out * taps);
    for (i64 i = 0; i < axis.out; ++i) {
      place[i] = place_of_sample(store, static_cast<int>(i));
      fill(axis, i);
    }
  }

  void fill(const Axis& axis, i64 i) {
    const Window window = window_of(axis, i);
    begin[i] = window.begin;
    end[i] = window.end;
    float* w = weights.data() + i * taps;
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
  std::shared_ptr<const Table> of(const Axis& axis, const StoreAxis& store) {
    for (const Kept& k : kept_) {
      if (k.is_of(axis, store)) return k.table;
    }
    Kept made{axis, store, std::make_shared<const Table>(axis, store)};
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
    std::shared_ptr<const Table> table;

    static auto key(const Axis& a, const StoreAxis& s) {
      return std::make_tuple(a.first, a.in, a.out, a.unit, a.filter, a.antialias, s.pixel, s.patch,
                             s.group, s.first, s.step, s.pixels, s.patches, s.count);
    }

    bool is_of(const Axis& a, const StoreAxis& s) const { return key(axis, store) == key(a, s); }
  };

  std::vector<Kept> kept_;
};

thread_local KeptTables kept_tables;

struct Plan {
  int band_rows;
  int bands;  // of one frame
  int column_capacity;
  i64 items;
};

Plan make_plan(const Params& p, const AxisTable& across, int threads) {
  const int capacity = across.taps + kStripCols;
  const i64 row_bytes = 3 * sizeof(float) * (i64(kStripCols) + capacity);
  const i64 fits = std::max<i64>(kScratchBytes / row_bytes / kGroupRows, 1) * kGroupRows;
  // As few bands as fit, since each converts some rows of its neighbour too, but a whole number per
  // thread.
  i64 bands = ceil_div(p.down.count, fits);
  const i64 most = ceil_div(p.down.count, kGroupRows);
  while (p.frames * bands < 4 * threads && p.frames * bands % threads != 0 && bands < most) ++bands;
  const i64 rows = ceil_div(ceil_div(p.down.count, bands), kGroupRows) * kGroupRows;
  bands = ceil_div(p.down.count, rows);
  return {static_cast<int>(rows), static_cast<int>(bands), capacity, p.frames * bands};
}

class Buffers {
 public:
  Buffers(const Plan& plan)
      : chunk_(size_t(kChunkRows) * 3 * kStripCols),
        strip_(size_t(plan.band_rows) * 3 * kStripCols),
        columns_(size_t(plan.band_rows) * 3 * plan.column_capacity + kUnroll * kGroupRows),
        capacity_(plan.column_capacity) {}

  Scratch view() { return {chunk_.data(), strip_.data(), columns_.data(), capacity_}; }

 private:
  std::vector<float> chunk_, strip_, columns_;
  int capacity_;
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
  const auto down = kept_tables.of(down_axis(p), p.down);
  const auto across = kept_tables.of(across_axis(p), p.across);
  const Plan plan = make_plan(p, across->view(), std::max(threads, 1));
  const i64 count = threads_for(p, plan.items, threads);
  std::vector<Buffers> buffers;
  for (i64 i = 0; i < count; ++i) buffers.emplace_back(plan);
  share(count, plan.items, [&](i64 thread, i64 item) {
    const int begin = static_cast<int>(item % plan.bands) * plan.band_rows;
    const int end = static_cast<int>(std::min<i64>(begin + i64(plan.band_rows), p.down.count));
    band_fn(p, across->view(), down->view(), {item / plan.bands, begin, end},
            buffers[thread].view());
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
  if (p.passes == kFloat) {
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
