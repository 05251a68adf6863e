#include "video/cpu_band.inl"

namespace aimills::video {

void band_avx2(const Params& p, const AxisTable& across, const AxisTable& down, const Band& band,
               const Scratch& scratch) {
  run_band(p, across, down, band, scratch);
}

}  // namespace aimills::video
