#include "video/cpu_band.inl"
#include "video/cpu_pil.inl"
#include "video/cpu_planes.inl"

namespace aimills::video {

void band_baseline(const Params& p, const AxisTables& luma, const AxisTables& chroma,
                   const Band& band, const Scratch& scratch) {
  if (p.passes == kPlanes) {
    run_planes(p, luma, chroma, band, scratch);
  } else {
    run_pixels(p, luma, band, scratch);
  }
}

const PilCode pil_baseline = {convert_strip, join_levels, filter_windows, filter_rows_of};

}  // namespace aimills::video
