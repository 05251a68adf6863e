// Pillow's resize: whole weights in 2^-22, rounded to levels between the two passes.

#include "video/cpu_pil.h"

#include "video/cpu_threads.h"
#include "video/pil_table.h"
#include "video/weights.h"

namespace aimills::video {
namespace {

constexpr int kSlack = PilTable::kSlack;  // bytes past the end of a line: vectors are of eight
constexpr int kBandRows = 16;  // fewer are not worth the rows that two bands both convert

// With the place of each output.
struct PlacedTable : PilTable {
  std::vector<i64> place;  // in elements

  PlacedTable(const Axis& axis, const StoreAxis& store, int from)
      : PilTable(axis, from, store.end) {
    for (int i = from; i < store.end; ++i) place.push_back(place_of_sample(store, i));
  }

  int widest() const {
    int most = 0;
    for (size_t i = 0; i < begin.size(); ++i) most = std::max(most, end[i] - begin[i]);
    return most;
  }

  PilWindows view() const { return {begin.data(), end.data(), first.data(), weights.data()}; }
};

// What is stored for each level of a channel, as all of a picture is one of 256.
class Stored {
 public:
  explicit Stored(const Params& p) : bytes_(3 * kLevels * sizeof(float)) {
    for (int c = 0; c < 3; ++c) {
      for (int level = 0; level < kLevels; ++level) {
        store_as(bytes_.data(), c * kLevels + level, p.dtype,
                 normalize(p, c, static_cast<float>(level)));
      }
    }
  }

  // T has the size of an element: bits are copied.
  template <class T>
  const T* of(int channel) const {
    return reinterpret_cast<const T*>(bytes_.data()) + channel * kLevels;
  }

 private:
  static constexpr int kLevels = 256;
  std::vector<u8> bytes_;
};

template <class T>
void store_line(const u8* levels, const T* stored, const std::vector<i64>& place, T* out) {
  for (size_t i = 0; i < place.size(); ++i) out[place[i]] = stored[levels[i]];
}

// One band of output rows of one frame. Rows of the source that were filtered across, or are to
// be, wait in a ring.
class Worker {
 public:
  Worker(const Params& p, const PlacedTable& down, const PlacedTable& across, const Stored& stored,
         const PilCode& code)
      : p_(p),
        down_(down),
        across_(across),
        stored_(stored),
        code_(code),
        across_first_(p.passes == kPilAcross),
        outs_(cols_of(p)),
        left_(across.begin.front()),
        right_(across.end.back()),
        cols_(across_first_ ? outs_ : width()),
        ring_rows_(kChunkRows + down.widest()),
        chunk_(size_t(kChunkRows) * 3 * kStripCols),
        source_(size_t(kChunkRows) * 3 * width() + kSlack),
        ring_(size_t(ring_rows_) * 3 * cols_ + kSlack),
        rows_(down.widest()),
        line_(3 * size_t(cols_) + kSlack),
        out_(3 * size_t(outs_) + kSlack) {}

  void run(i64 frame, int row_begin, int row_end) {
    const int end = down_.end[row_end - 1];
    int next = 0;  // row of the source
    for (int row = row_begin; row < row_end; ++row) {
      next = std::max(next, down_.begin[row]);
      while (next < down_.end[row]) {
        const int chunk_end = std::min(next + kChunkRows, end);
        fill_ring(frame, next, chunk_end);
        next = chunk_end;
      }
      for (int c = 0; c < 3; ++c) filter_down(row, c);
      if (!across_first_) filter_across(line_.data(), out_.data());
      store(frame, row, across_first_ ? line_.data() : out_.data());
    }
  }

 private:
  int width() const { return right_ - left_; }
  u8* ring_row(int row) { return ring_.data() + size_t(row % ring_rows_) * 3 * cols_; }

  void fill_ring(i64 frame, int begin, int end) {
    load(frame, begin, end);
    for (int row = begin; row < end; ++row) {
      const u8* source = source_.data() + size_t(row - begin) * 3 * width();
      if (across_first_) {
        // By way of `out_`: vectors end past the row, and the ring may still need the next one.
        filter_across(source, out_.data());
        std::copy(out_.data(), out_.data() + 3 * size_t(cols_), ring_row(row));
      } else {
        std::copy(source, source + 3 * size_t(cols_), ring_row(row));
      }
    }
  }

  // Source rows [begin, end), of the columns that are needed, as u8 [row][3][width].
  void load(i64 frame, int begin, int end) {
    for (int col = left_ & ~1; col < right_; col += kStripCols) {
      code_.convert(p_, frame, begin, end, col, chunk_.data());
      const int from = std::max(left_ - col, 0);
      const int to = std::min(right_ - col, kStripCols);
      for (int line = 0; line < 3 * (end - begin); ++line) {
        const float* levels = chunk_.data() + line * kStripCols;
        u8* out = source_.data() + i64(line) * width() + (col - left_);
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

  // [3][width] to [3][outs_].
  void filter_across(const u8* from, u8* to) {
    for (int c = 0; c < 3; ++c, from += width(), to += outs_) {
      code_.across(from - left_, across_.view(), outs_, to);
    }
  }

  // One output row of one channel. What is written past its end is the next channel's.
  void filter_down(int row, int channel) {
    const int begin = down_.begin[row], taps = down_.end[row] - begin;
    for (int t = 0; t < taps; ++t) rows_[t] = ring_row(begin + t) + size_t(channel) * cols_;
    code_.down(rows_.data(), down_.weights.data() + down_.first[row], taps, cols_,
               line_.data() + size_t(channel) * cols_);
  }

  void store(i64 frame, int row, const u8* levels) {
    const int bytes = bytes_of(p_.dtype);
    if (bytes == 1) {
      store_elements<u8>(frame, row, levels);
    } else if (bytes == 2) {
      store_elements<u16>(frame, row, levels);
    } else {
      store_elements<float>(frame, row, levels);
    }
  }

  template <class T>
  void store_elements(i64 frame, int row, const u8* levels) {
    T* out = static_cast<T*>(p_.out) + place_of_frame(p_, frame) + down_.place[row];
    for (int copy = copies_of_frame(p_, frame); copy > 0; --copy, out += p_.time.pixel) {
      for (int c = 0; c < 3; ++c) {
        store_line(levels + i64(c) * outs_, stored_.of<T>(c), across_.place, out + c * p_.channel);
      }
    }
  }

  const Params& p_;
  const PlacedTable &down_, &across_;
  const Stored& stored_;
  PilCode code_;
  bool across_first_;
  int outs_;          // columns that are stored
  int left_, right_;  // columns of the source that these are made of
  int cols_, ring_rows_;
  std::vector<float> chunk_;
  std::vector<u8> source_, ring_;
  std::vector<const u8*> rows_;
  std::vector<u8> line_, out_;
};

// A band converts its first rows a second time, so there are as few as keep all threads busy.
int band_rows(const Params& p, int threads) {
  const i64 most = ceil_div(rows_of(p), kBandRows);
  const i64 bands = threads < 2 ? 1 : std::min(ceil_div(4 * i64(threads), p.frames), most);
  return static_cast<int>(ceil_div(rows_of(p), bands));
}

}  // namespace

void run_pil(const Params& p, int threads, const PilCode& code) {
  const PlacedTable down(down_axis(p), p.down, p.first_row);
  const PlacedTable across(across_axis(p), p.across, p.first_col);
  const Stored stored(p);
  const int rows = band_rows(p, threads);
  const i64 bands = ceil_div(rows_of(p), rows), items = p.frames * bands;
  const i64 count = threads_for(p, items, threads);
  std::vector<Worker> workers(count, Worker(p, down, across, stored, code));
  share(count, items, [&](i64 thread, i64 item) {
    const int begin = static_cast<int>(item % bands) * rows;
    workers[thread].run(item / bands, begin, std::min(begin + rows, rows_of(p)));
  });
}

}  // namespace aimills::video
