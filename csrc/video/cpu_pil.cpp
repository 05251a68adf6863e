// Pillow's resize: whole weights in 2^-22, rounded to levels between the two passes.

#include "video/cpu_pil.h"

#include "video/cpu_threads.h"
#include "video/pil_table.h"
#include "video/weights.h"

namespace aimills::video {
namespace {

constexpr int kBits = kPilBits;
constexpr int kSlack = PilTable::kSlack;  // bytes that are read past the end of a line
constexpr int kBandRows = 32;

// With the place of each output.
struct PlacedTable : PilTable {
  std::vector<i64> place;  // in elements

  PlacedTable(const Axis& axis, const StoreAxis& store) : PilTable(axis) {
    for (int i = 0; i < axis.out; ++i) place.push_back(place_of_sample(store, i));
  }

  PilWindows view() const { return {begin.data(), end.data(), first.data(), weights.data()}; }
};

u8 to_u8(int sum) { return static_cast<u8>(std::clamp(sum >> kBits, 0, 255)); }

// One band of output rows of one frame.
class Worker {
 public:
  Worker(const Params& p, const PlacedTable& down, const PlacedTable& across, const PilCode& code)
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
  const PlacedTable &down_, &across_;
  PilCode code_;
  std::vector<float> chunk_;
  std::vector<u8> source_;
  std::vector<int> sums_;
  std::vector<u8> line_, out_, middle_;
};

}  // namespace

void run_pil(const Params& p, int threads, const PilCode& code) {
  const PlacedTable down(down_axis(p), p.down), across(across_axis(p), p.across);
  const i64 bands = ceil_div(p.down.count, kBandRows), items = p.frames * bands;
  const i64 count = threads_for(p, items, threads);
  std::vector<Worker> workers(count, Worker(p, down, across, code));
  share(count, items, [&](i64 thread, i64 item) {
    const int begin = static_cast<int>(item % bands) * kBandRows;
    workers[thread].run(item / bands, begin, std::min(begin + kBandRows, p.down.count));
  });
}

}  // namespace aimills::video
