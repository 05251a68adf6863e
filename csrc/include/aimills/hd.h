#pragma once
// Compiles as CUDA C++ (nvcc and NVRTC, which has no standard headers) and as plain C++.

#if defined(__CUDACC__)
#define AIMILLS_HD static __host__ __device__ __forceinline__
#define AIMILLS_HD_MEMBER __host__ __device__ __forceinline__
#define AIMILLS_ROLLED _Pragma("unroll 1")
#define AIMILLS_UNROLLED _Pragma("unroll")
#else
// static: one source is compiled for several instruction sets, and a shared inline symbol would let
// the linker hand AVX2 code to a machine without it.
#define AIMILLS_HD static inline __attribute__((always_inline, unused))
#define AIMILLS_HD_MEMBER inline __attribute__((always_inline))
#define AIMILLS_ROLLED
#define AIMILLS_UNROLLED
#endif

namespace aimills {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using i16 = short;
using i64 = long long;

template <class T>
AIMILLS_HD constexpr T smaller(T a, T b) {
  return b < a ? b : a;
}

template <class T>
AIMILLS_HD constexpr T larger(T a, T b) {
  return a < b ? b : a;
}

AIMILLS_HD constexpr i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

}  // namespace aimills
