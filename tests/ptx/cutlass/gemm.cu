// A collective GEMM of CUTLASS, D = A B + 2 C in clusters of 2x1: its kernel, and what its launch
// takes.
//
// Macros name the instance: IN and OUT (types), LAYOUT_A and LAYOUT_B, TILE_M, TILE_N and TILE_K,
// SCHEDULE (KernelTmaWarpSpecializedCooperative or KernelTmaWarpSpecializedPingpong).

#include <cutlass/cutlass.h>

#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <cutlass/util/packed_stride.hpp>

using cutlass::epilogue::collective::EpilogueTileAuto;
using cutlass::gemm::collective::StageCountAutoCarveout;

using In = cutlass::IN;
using Out = cutlass::OUT;
using LayoutA = cutlass::layout::LAYOUT_A;
using LayoutB = cutlass::layout::LAYOUT_B;
using LayoutD = cutlass::layout::RowMajor;
using Arch = cutlass::arch::Sm90;
using Class = cutlass::arch::OpClassTensorOp;
using Tile = cute::Shape<cute::Int<TILE_M>, cute::Int<TILE_N>, cute::Int<TILE_K>>;
using Cluster = cute::Shape<cute::_2, cute::_1, cute::_1>;
using Schedule = cutlass::gemm::SCHEDULE;
using EpilogueSchedule =
    std::conditional_t<std::is_same_v<Schedule, cutlass::gemm::KernelTmaWarpSpecializedPingpong>,
                       cutlass::epilogue::TmaWarpSpecialized,
                       cutlass::epilogue::TmaWarpSpecializedCooperative>;
constexpr int kAlignIn = 16 / sizeof(In), kAlignOut = 16 / sizeof(Out);

using Epilogue = cutlass::epilogue::collective::CollectiveBuilder<
    Arch, Class, Tile, Cluster, EpilogueTileAuto, float, float, Out, LayoutD, kAlignOut, Out,
    LayoutD, kAlignOut, EpilogueSchedule>::CollectiveOp;

using Mainloop = cutlass::gemm::collective::CollectiveBuilder<
    Arch, Class, In, LayoutA, kAlignIn, In, LayoutB, kAlignIn, float, Tile, Cluster,
    StageCountAutoCarveout<static_cast<int>(sizeof(Epilogue::SharedStorage))>,
    Schedule>::CollectiveOp;

using Gemm =
    cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue>;

extern "C" __global__ void __launch_bounds__(Gemm::MaxThreadsPerBlock, 1)
    gemm(__grid_constant__ Gemm::Params const params) {
  extern __shared__ char memory[];
  Gemm{}(params, memory);
}

#ifndef __CUDA_ARCH__

// The driver's encoder of tensor maps, which is not here, is a function of the caller.
static decltype(&cuTensorMapEncodeTiled) encoder;

extern "C" {

CUresult CUDAAPI cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank,
                                        void* address, const cuuint64_t* dims,
                                        const cuuint64_t* strides, const cuuint32_t* box,
                                        const cuuint32_t* steps, CUtensorMapInterleave interleave,
                                        CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2,
                                        CUtensorMapFloatOOBfill fill) {
  return encoder(map, type, rank, address, dims, strides, box, steps, interleave, swizzle, l2,
                 fill);
}

CUresult CUDAAPI cuTensorMapEncodeIm2col(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                         const cuuint64_t*, const cuuint64_t*, const int*,
                                         const int*, cuuint32_t, cuuint32_t, const cuuint32_t*,
                                         CUtensorMapInterleave, CUtensorMapSwizzle,
                                         CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  return CUDA_ERROR_NOT_SUPPORTED;
}

int params_size() { return sizeof(Gemm::Params); }

// Fills `params`, and `launch` with the grid, the threads of a block and the shared memory.
// shape: M, N, K, batches, SMs. False: CUTLASS does not take this.
bool prepare(void* params, int* launch, void* encode, const int* shape, In* a, In* b, Out* c,
             Out* d) {
  encoder = reinterpret_cast<decltype(encoder)>(encode);
  const int m = shape[0], n = shape[1], k = shape[2], batches = shape[3];
  auto packed = [&](auto stride, int rows) {
    return cutlass::make_cute_packed_stride(stride, cute::make_shape(rows, k, batches));
  };
  auto stride_d = cutlass::make_cute_packed_stride(Gemm::StrideD{}, {m, n, batches});
  Gemm::Arguments arguments{cutlass::gemm::GemmUniversalMode::kGemm,
                            {m, n, k, batches},
                            {a, packed(Gemm::StrideA{}, m), b, packed(Gemm::StrideB{}, n)},
                            {{1.0f, 2.0f}, c, stride_d, d, stride_d}};
  arguments.hw_info.sm_count = shape[4];
  if (!Gemm::can_implement(arguments) || Gemm::get_workspace_size(arguments) != 0) return false;
  const auto made = Gemm::to_underlying_arguments(arguments, nullptr);
  std::memcpy(params, &made, sizeof(made));
  const dim3 grid = Gemm::get_grid_shape(made);
  const int facts[] = {int(grid.x), int(grid.y), int(grid.z), int(Gemm::MaxThreadsPerBlock),
                       Gemm::SharedStorageSize};
  std::memcpy(launch, facts, sizeof(facts));
  return true;
}
}

#endif
