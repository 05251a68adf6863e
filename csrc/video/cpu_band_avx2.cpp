#include "video/cpu_band.inl"

namespace aimills::video {

void band_avx2(const Params& p, const AxisTable& across, const AxisTable& down, const Band& band,
               const Scratch& scratch) {
  run_band(p, across, down, band, scratch);
}

void convert_avx2(const Params& p, i64 frame, int begin, int end, int col, float* chunk) {
  convert_of(p)(p, frame, begin, end, col, chunk);
}

}  // namespace aimills::video
