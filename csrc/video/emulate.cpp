#include "video/emulate.h"

#include <stdexcept>
#include <vector>

#include "video/tile.h"

namespace aimills::video {
namespace {

constexpr u32 kPoison = 0x7fc0dead;  // a NaN, and no colour
constexpr int kFence = 4096;

class Block {
 public:
  explicit Block(const Params& p) : p_(p), t_(tiling_of(p)), words_(kSharedWords + 2 * kFence) {}

  i64 tiles() const { return t_.total; }

  template <class Loader>
  void run(i64 i) {
    words_.assign(words_.size(), kPoison);
    const Tile tile = tile_of(p_, t_, i);
    std::vector<StateOf<Loader>> states(kThreads);
    run_parts(Loader{}, tile, states);
    each([&](int tid) { finish_tile<Loader>(p_, t_, tile, tid, states[tid]); });
    check_fences();
  }

 private:
  // As in kernel.h.
  template <class Loader>
  void run_parts(Loader, const Tile& tile, std::vector<StateOf<Loader>>& states) {
    run_part<Loader>(tile, states);
  }

  template <class Kind>
  void run_parts(Planes<Kind>, const Tile& tile, std::vector<ThreadState<float>>& states) {
    run_part<Luma<Kind>>(tile, states);
    run_part<Chroma<Kind>>(tile, states);
  }

  template <class Part>
  void run_part(const Tile& tile, std::vector<StateOf<Part>>& states) {
    const auto s = shared_of<typename Part::Value>(t_, words_.data() + kFence);
    Place at = place_of<Part>(p_, t_, tile);
    each([&](int tid) { begin_part<Part>(p_, t_, at, s, tid, states[tid]); });
    for (at.row = at.row_begin; at.row < at.row_end; at.row += kChunkRows) {
      at.rows = smaller(at.row_end - at.row, kChunkRows);
      for (at.col = at.col_begin; at.col < at.col_end; at.col += t_.chunk_cols) {
        at.cols = smaller(at.col_end - at.col, t_.chunk_cols);
        each([&](int tid) { load_phase<Part>(p_, t_, at, s, tid); });
        each([&](int tid) { across_phase<Part>(p_, t_, at, s, tid); });
      }
      each([&](int tid) { down_phase<Part>(t_, at, s, tid, states[tid]); });
    }
    each([&](int tid) { end_part<Part>(states[tid]); });
  }

  // Even phases run backwards: an order that the kernel must not depend on.
  template <class F>
  void each(const F& phase) {
    backwards_ = !backwards_;
    for (int i = 0; i < kThreads; ++i) phase(backwards_ ? kThreads - 1 - i : i);
  }

  void check_fences() const {
    for (int i = 0; i < kFence; ++i) {
      if (words_[i] != kPoison || words_[words_.size() - 1 - i] != kPoison) {
        throw std::logic_error("the kernel wrote outside its shared memory");
      }
    }
  }

  const Params& p_;
  const Tiling t_;
  std::vector<u32> words_;
  bool backwards_ = false;
};

}  // namespace

void emulate_cuda(Params p, i64 blocks) {
  if (p.passes == kPilDown) turn(p);
  Block block(p);
  with_loader(p, [&](auto loader) {
    for (i64 first = 0; first < blocks; ++first) {
      for (i64 tile = first; tile < block.tiles(); tile += blocks) {
        block.run<decltype(loader)>(tile);
      }
      for (int tid = 0; tid < kThreads; ++tid) {
        pad_phase(p, first * kThreads + tid, blocks * kThreads);
      }
    }
  });
}

}  // namespace aimills::video
