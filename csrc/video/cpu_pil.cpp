// Pillow's resize: whole weights in 2^-22 out of the same double operations as its own, rounded to
// levels between the two passes. This file is compiled without contraction to FMA.

#include "video/cpu_pil.h"

#include <cmath>

#include "video/cpu_threads.h"
#include "video/weights.h"

namespace aimills::video {
namespace {

constexpr int kBits = kPilBits;
constexpr int kSlack = 8;  // bytes that are read past the end of a line
constexpr int kBandRows = 32;

double sinc_of(double x) {
  if (x == 0.0) return 1.0;
  x *= 3.14159265358979323846;
  return std::sin(x) / x;
}

double pil_filter(int filter, double x) {
  if (filter == kArea) return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
  if (filter == kLanczos) return -3.0 <= x && x < 3.0 ? sinc_of(x) * sinc_of(x / 3) : 0.0;
  x = x < 0.0 ? -x : x;
  if (filter == kBilinear) return x < 1.0 ? 1.0 - x : 0.0;
  constexpr double a = -0.5;
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

struct PilTable {
  std::vector<int> begin, end, weights;
  std::vector<i64> place, first;  // of its first weight
  std::vector<double> exact;

  PilTable(const Axis& axis, const StoreAxis& store) {
    const double scale = static_cast<double>(axis.in) / static_cast<double>(axis.out);
    double at = 0.5 * scale;  // Pillow's nearest adds the scale up
    for (int i = 0; i < axis.out; ++i, at += scale) {
      place.push_back(place_of_sample(store, i));
      first.push_back(static_cast<i64>(weights.size()));
      if (axis.filter == kNearest) {
        begin.push_back(static_cast<int>(std::min<i64>(static_cast<i64>(at), axis.in - 1)));
        end.push_back(begin.back() + 1);
        weights.push_back(1 << kBits);
        pad();
      } else {
        fill(axis, i, scale);
      }
      begin.back() += static_cast<int>(axis.first);
      end.back() += static_cast<int>(axis.first);
    }
  }

  void fill(const Axis& axis, int i, double scale) {
    const double wide = std::max(scale, 1.0), narrow = 1.0 / wide;
    const double support = 0.5 * reach_of(axis.filter) * wide, center = (i + 0.5) * scale;
    const int from = std::max(static_cast<int>(center - support + 0.5), 0);
    const int to =
        static_cast<int>(std::min<i64>(static_cast<i64>(center + support + 0.5), axis.in));
    double total = 0.0;
    exact.clear();
    for (int j = from; j < to; ++j) {
      exact.push_back(pil_filter(axis.filter, (j - center + 0.5) * narrow));
      total += exact.back();
    }
    for (double w : exact) {
      if (total != 0.0) w /= total;
      weights.push_back(static_cast<int>((w < 0.0 ? -0.5 : 0.5) + w * (1 << kBits)));
    }
    pad();
    begin.push_back(from);
    end.push_back(to);
  }

  void pad() { weights.resize((weights.size() + kSlack - 1) / kSlack * kSlack); }

  PilWindows view() const { return {begin.data(), end.data(), first.data(), weights.data()}; }
};

u8 to_u8(int sum) { return static_cast<u8>(std::clamp(sum >> kBits, 0, 255)); }

// One band of output rows of one frame.
class Worker {
 public:
  Worker(const Params& p, const PilTable& down, const PilTable& across, const PilCode& code)
      : p_(p),
        down_(down),
        across_(across),
        code_(code),
        chunk_(size_t(kChunkRows) * 3 * kStripCols),
        source_(size_t(kChunkRows) * 3 * p.crop_width + kSlack),
        sums_(std::max(p.crop_width, p.across.count)),
        line_(3 * sums_.size() + kSlack),
        out_(3 * size_t(p.across.count)) {}

  void run(i64 frame, int row_begin, int row_end) {
    const bool across_first = p_.passes == kPilAcross;
    const int begin = down_.begin[row_begin], end = down_.end[row_end - 1];
    const int cols = across_first ? p_.across.count : p_.crop_width;
    middle_.resize(size_t(end - begin) * 3 * cols);
    for (int row = begin; row < end; row += kChunkRows) {
      load(frame, row, std::min(row + kChunkRows, end));
      for (int r = row; r < std::min(row + kChunkRows, end); ++r) {
        const u8* source = source_.data() + size_t(r - row) * 3 * p_.crop_width;
        u8* middle = middle_.data() + size_t(r - begin) * 3 * cols;
        if (across_first) {
          filter_across(source, middle);
        } else {
          std::copy(source, source + 3 * size_t(cols), middle);
        }
      }
    }
    for (int row = row_begin; row < row_end; ++row) {
      for (int c = 0; c < 3; ++c) filter_down(row, c, begin, cols);
      if (!across_first) filter_across(line_.data(), out_.data());
      store(frame, row, across_first ? line_.data() : out_.data());
    }
  }

 private:
  // Source rows [begin, end) of the crop as u8 [row][3][crop_width].
  void load(i64 frame, int begin, int end) {
    for (int col = p_.left & ~1; col < p_.left + p_.crop_width; col += kStripCols) {
      code_.convert(p_, frame, begin, end, col, chunk_.data());
      const int from = std::max(p_.left - col, 0);
      const int to = std::min(p_.left + p_.crop_width - col, kStripCols);
      for (int line = 0; line < 3 * (end - begin); ++line) {
        const float* levels = chunk_.data() + line * kStripCols;
        u8* out = source_.data() + i64(line) * p_.crop_width + (col - p_.left);
        if (from == 0 && to == kStripCols) {
          code_.join(levels, out);
          continue;
        }
        for (int i = from; i < to; ++i) {
          out[i] = static_cast<u8>(levels[i / 2 + (i & 1) * (kStripCols / 2)]);
        }
      }
    }
  }

  // [3][crop_width] to [3][across.count].
  void filter_across(const u8* from, u8* to) {
    const int outs = p_.across.count;
    for (int c = 0; c < 3; ++c, from += p_.crop_width, to += outs) {
      code_.dot(from - p_.left, across_.view(), outs, to);
    }
  }

  // One output row of one channel out of `middle_`, which starts at source row `begin`.
  void filter_down(int row, int channel, int begin, int cols) {
    std::fill(sums_.begin(), sums_.begin() + cols, 1 << (kBits - 1));
    const int* weights = down_.weights.data() + down_.first[row];
    for (int j = down_.begin[row]; j < down_.end[row]; ++j, ++weights) {
      const u8* samples = middle_.data() + (size_t(j - begin) * 3 + channel) * cols;
      code_.add(samples, *weights, cols, sums_.data());
    }
    for (int i = 0; i < cols; ++i) line_[size_t(channel) * cols + i] = to_u8(sums_[i]);
  }

  void store(i64 frame, int row, const u8* levels) {
    i64 at = place_of_frame(p_, frame) + down_.place[row];
    for (int copy = copies_of_frame(p_, frame); copy > 0; --copy, at += p_.time.pixel) {
      for (int c = 0; c < 3; ++c) {
        for (int i = 0; i < p_.across.count; ++i) {
          const float level = levels[i64(c) * p_.across.count + i];
          store_as(p_.out, at + c * p_.channel + across_.place[i], p_.dtype,
                   normalize(p_, c, level));
        }
      }
    }
  }

  const Params& p_;
  const PilTable &down_, &across_;
  PilCode code_;
  std::vector<float> chunk_;
  std::vector<u8> source_;
  std::vector<int> sums_;
  std::vector<u8> line_, out_, middle_;
};

}  // namespace

void run_pil(const Params& p, int threads, const PilCode& code) {
  const PilTable down(down_axis(p), p.down), across(across_axis(p), p.across);
  const i64 bands = ceil_div(p.down.count, kBandRows), items = p.frames * bands;
  const i64 count = threads_for(p, items, threads);
  std::vector<Worker> workers(count, Worker(p, down, across, code));
  share(count, items, [&](i64 thread, i64 item) {
    const int begin = static_cast<int>(item % bands) * kBandRows;
    workers[thread].run(item / bands, begin, std::min(begin + kBandRows, p.down.count));
  });
}

}  // namespace aimills::video
