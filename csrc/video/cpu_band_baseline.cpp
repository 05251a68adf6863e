#include "video/cpu_band.inl"
#include "video/cpu_pil.inl"

namespace aimills::video {

void band_baseline(const Params& p, const AxisTable& across, const AxisTable& down,
                   const Band& band, const Scratch& scratch) {
  run_band(p, across, down, band, scratch);
}

const PilCode pil_baseline = {convert_strip, join_levels, dot_levels, add_levels};

}  // namespace aimills::video
