// Weights by the same double operations as Pillow's own, in the same order. This file is compiled
// without contraction to FMA.

#include "video/pil_table.h"

#include <algorithm>
#include <cmath>

#include "video/pil.h"

namespace aimills::video {
namespace {

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

}  // namespace

PilTable::PilTable(const Axis& axis, i64 from, i64 to) {
  const double scale = static_cast<double>(axis.in) / static_cast<double>(axis.out);
  double at = 0.5 * scale;  // Pillow's nearest adds the scale up
  for (int i = 0; i < to; ++i, at += scale) {
    if (i < from) continue;
    first.push_back(static_cast<i64>(weights.size()));
    if (axis.filter == kNearest) {
      begin.push_back(static_cast<int>(std::min<i64>(static_cast<i64>(at), axis.in - 1)));
      end.push_back(begin.back() + 1);
      weights.push_back(1 << kPilBits);
      pad();
    } else {
      fill(axis, i, scale);
    }
    begin.back() += static_cast<int>(axis.first);
    end.back() += static_cast<int>(axis.first);
  }
}

void PilTable::fill(const Axis& axis, int i, double scale) {
  const double wide = std::max(scale, 1.0), narrow = 1.0 / wide;
  const double support = 0.5 * reach_of(axis.filter) * wide, center = (i + 0.5) * scale;
  const int from = std::max(static_cast<int>(center - support + 0.5), 0);
  const int to = static_cast<int>(std::min<i64>(static_cast<i64>(center + support + 0.5), axis.in));
  double total = 0.0;
  exact_.clear();
  for (int j = from; j < to; ++j) {
    exact_.push_back(pil_filter(axis.filter, (j - center + 0.5) * narrow));
    total += exact_.back();
  }
  for (double w : exact_) {
    if (total != 0.0) w /= total;
    weights.push_back(static_cast<int>((w < 0.0 ? -0.5 : 0.5) + w * (1 << kPilBits)));
  }
  pad();
  begin.push_back(from);
  end.push_back(to);
}

std::vector<int> pil_lines(i64 in, i64 out, int filter) {
  const PilTable table({0, in, in, out, larger(in, out), filter, true}, 0, out);
  int longest = 0;
  for (i64 i = 0; i < out; ++i) longest = std::max(longest, table.end[i] - table.begin[i]);
  const i64 length = longest + 2;
  std::vector<int> lines(1 + out * length);
  lines[0] = static_cast<int>(length);
  for (i64 i = 0; i < out; ++i) {
    int* line = lines.data() + 1 + i * length;
    line[0] = table.begin[i];
    line[1] = table.end[i];
    std::copy_n(table.weights.begin() + table.first[i], line[1] - line[0], line + 2);
  }
  return lines;
}

}  // namespace aimills::video
