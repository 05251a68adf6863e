#pragma once

#include <vector>

#include "video/weights.h"

namespace aimills::video {

// Pillow's windows and whole weights of one axis.
struct PilTable {
  static constexpr int kSlack = 8;  // weights of an output end in zeros, a multiple of so many

  std::vector<int> begin, end;  // of each output's window, in the axis' samples
  std::vector<i64> first;       // of its weights
  std::vector<int> weights;

  // Of outputs [from, to).
  PilTable(const Axis& axis, i64 from, i64 to);

 private:
  void fill(const Axis& axis, int i, double scale);
  void pad() { weights.resize((weights.size() + kSlack - 1) / kSlack * kSlack); }

  std::vector<double> exact_;
};

// The table of `in` samples and `out` outputs as the GPU reads it (pil.h).
std::vector<int> pil_lines(i64 in, i64 out, int filter);

}  // namespace aimills::video
