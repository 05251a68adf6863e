#include "video/cpu_band.inl"

namespace aimills::video {

void band_baseline(const Params& p, const AxisTable& across, const AxisTable& down,
                   const Band& band, const Scratch& scratch) {
  run_band(p, across, down, band, scratch);
}

}  // namespace aimills::video
