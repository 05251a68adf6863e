#include <cooperative_groups.h>
#include <cuda/barrier>
#include <cuda/ptx>
#include <cuda_pipeline.h>
namespace cg = cooperative_groups;
namespace ptx = cuda::ptx;
using Barrier = cuda::barrier<cuda::thread_scope_block>;

extern "C" __global__ void pipeline(const float* in, float* out, int stages_of_256) {
  __shared__ float buffer[2][256];
  int t = threadIdx.x;
  __pipeline_memcpy_async(&buffer[0][t * 4], in + t * 4, 16);
  __pipeline_commit();
  for (int i = 0; i < stages_of_256; ++i) {
    if (i + 1 < stages_of_256)
      __pipeline_memcpy_async(&buffer[(i + 1) % 2][t * 4], in + (i + 1) * 256 + t * 4, 16, t == 3 ? 4 : 0);
    __pipeline_commit();
    __pipeline_wait_prior(1);
    __syncthreads();
    for (int k = 0; k < 4; ++k) out[i * 256 + k * 64 + t] = 2 * buffer[i % 2][k * 64 + t];
    __syncthreads();
  }
}

extern "C" __global__ void barriers(const int* in, int* out, int rounds) {
  __shared__ Barrier bar;
  __shared__ int data[128];
  if (threadIdx.x == 0) init(&bar, blockDim.x);
  __syncthreads();
  int sum = 0;
  for (int r = 0; r < rounds; ++r) {
    data[threadIdx.x] = in[r * 128 + threadIdx.x];
    Barrier::arrival_token token = bar.arrive();
    bar.wait(std::move(token));
    sum += data[(threadIdx.x + 37) % 128];
    bar.arrive_and_wait();
  }
  out[threadIdx.x] = sum;
}

extern "C" __global__ void bulk(const int* in, int* out) {
  __shared__ alignas(16) int data[1024];
  __shared__ Barrier bar;
  if (threadIdx.x == 0) {
    init(&bar, blockDim.x);
    cuda::device::experimental::fence_proxy_async_shared_cta();
  }
  __syncthreads();
  Barrier::arrival_token token;
  if (threadIdx.x == 0) {
    cuda::device::experimental::cp_async_bulk_global_to_shared(data, in, sizeof(data), bar);
    token = cuda::device::barrier_arrive_tx(bar, 1, sizeof(data));
  } else {
    token = bar.arrive();
  }
  bar.wait(std::move(token));
  for (int i = threadIdx.x; i < 1024; i += blockDim.x) data[i] += 1;
  cuda::device::experimental::fence_proxy_async_shared_cta();
  __syncthreads();
  if (threadIdx.x == 0) {
    ptx::cp_async_bulk(ptx::space_global, ptx::space_shared, out, data, sizeof(data));
    ptx::cp_async_bulk_commit_group();
    ptx::cp_async_bulk_wait_group_read(ptx::n32_t<0>());
  }
}

extern "C" __global__ __cluster_dims__(4, 1, 1) void cluster(const int* in, int* out) {
  __shared__ int mine[64], sums[64];
  auto c = cg::this_cluster();
  sums[threadIdx.x] = 0;
  mine[threadIdx.x] = in[blockIdx.x * 64 + threadIdx.x];
  c.sync();
  int sum = 0;
  for (unsigned r = 0; r < c.num_blocks(); ++r) sum += c.map_shared_rank(mine, r)[threadIdx.x];
  for (unsigned r = 0; r < c.num_blocks(); ++r)
    atomicAdd(c.map_shared_rank(sums, r) + threadIdx.x, int(c.block_rank()));
  c.sync();
  out[blockIdx.x * 64 + threadIdx.x] = sum + 1000 * sums[threadIdx.x];
}

struct alignas(64) Map { char opaque[128]; };

extern "C" __global__ __cluster_dims__(2, 1, 1) void multicast(const __grid_constant__ Map map, int* out) {
  __shared__ alignas(128) int tile[2][8][32];
  __shared__ alignas(8) uint64_t bar;
  auto c = cg::this_cluster();
  unsigned rank = c.block_rank();
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(&bar, 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
  if (threadIdx.x == 0) {
    ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cluster, ptx::space_shared, &bar, sizeof(tile));
    int at[2] = {0, int(8 * rank)};
    ptx::cp_async_bulk_tensor(ptx::space_cluster, ptx::space_global, &tile[rank], &map, at, &bar, uint16_t(3));
  }
  while (!ptx::mbarrier_try_wait_parity(&bar, 0)) {}
  for (int i = threadIdx.x; i < 512; i += 32) out[rank * 512 + i] = (&tile[0][0][0])[i];
  c.sync();
}

extern "C" __global__ void reduce(const __grid_constant__ Map map, float* out, int* ints) {
  __shared__ alignas(128) float tile[8][32];
  __shared__ alignas(16) int some[32];
  for (int i = 0; i < 8; ++i) tile[i][threadIdx.x] = i + threadIdx.x;
  some[threadIdx.x] = threadIdx.x - 16;
  cuda::device::experimental::fence_proxy_async_shared_cta();
  __syncwarp();
  if (threadIdx.x == 0) {
    int at[2] = {16, 4};
    ptx::cp_reduce_async_bulk_tensor(ptx::space_global, ptx::space_shared, ptx::op_add, &map, at, &tile);
    ptx::cp_reduce_async_bulk(ptx::space_global, ptx::space_shared, ptx::op_max, ints, some, 128);
    ptx::cp_async_bulk_commit_group();
    ptx::cp_async_bulk_wait_group(ptx::n32_t<0>());
  }
}
