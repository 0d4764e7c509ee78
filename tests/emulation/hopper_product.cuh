// Small kernels around the sm_90 wrappers, for the emulator's selftest and for ptx_twins_hopper.cu on a device:
// wgmma with every operand order, width and element type; a TMA box; named barriers.
#pragma once

#include "cuda/ptx/tensor_map.cuh"
#include "cuda/ptx/wgmma.cuh"

namespace pconv::cuda {

constexpr int rows = 64, k_step = 64, k_count = 128;  // two steps of K
template <int columns>
constexpr int product_shared_bytes = (rows + columns) * k_step * 2;

// ---- wgmma on tiles that cp.async brought

struct Product {
    const uint16_t* a;  // [rows, k_count], or [k_count, rows] where MN-major
    const uint16_t* b;  // [columns, k_count], or [k_count, columns]
    float* d;           // [rows, columns]
};

// A piece of [tile_rows, 64 blocks] of a matrix, as `blocks` tiles of 128-byte rows, one behind the other.
PCONV_DEV void load_tiles(uint32_t tiles, const uint16_t* piece, int tile_rows, int blocks, int row_length) {
    for (int i = threadIdx.x; i < tile_rows * blocks * 8; i += 128) {
        const int tile = i / (tile_rows * 8), row = i / 8 % tile_rows, chunk = i % 8;
        cp_async_cg_16(
            tiles + tile * tile_rows * 128 + swizzle_128(row, chunk),
            piece + int64_t(row) * row_length + tile * 64 + chunk * 8, true);
    }
}

// One operand of `width` rows or columns: where its tiles are, and the descriptor of its k-th sixteen.
template <int major, int width>
struct Operand {
    uint32_t tiles;

    PCONV_DEV void load(const uint16_t* matrix, int k) const {
        if (major == 1)
            load_tiles(tiles, matrix + k * width, k_step, width / 64, width);
        else
            load_tiles(tiles, matrix + k, width, 1, k_count);
    }
    PCONV_DEV uint64_t descriptor(int sixteen) const {
        return major == 1 ? wgmma_descriptor(tiles + sixteen * 2048, k_step * 128, 1024)
                          : wgmma_descriptor(tiles + sixteen * 32, 16, 1024);
    }
};

template <int columns, int a_major, int b_major, bool is_bf16>
PCONV_DEV void multiply(const Product& product, uint8_t* shared) {
    const Operand<a_major, rows> a{smem_u32(shared)};
    const Operand<b_major, columns> b{a.tiles + rows * k_step * 2};
    float d[columns / 2];
    for (int k = 0; k < k_count; k += k_step) {
        a.load(product.a, k);
        b.load(product.b, k);
        cp_async_commit();
        cp_async_wait<0>();
        fence_proxy_async();
        __syncthreads();
        wgmma_fence();
#pragma unroll
        for (int sixteen = 0; sixteen < 4; ++sixteen) {
            if (is_bf16)
                wgmma_bf16<a_major, b_major>(d, a.descriptor(sixteen), b.descriptor(sixteen), k + sixteen > 0);
            else
                wgmma_f16<a_major, b_major>(d, a.descriptor(sixteen), b.descriptor(sixteen), k + sixteen > 0);
        }
        wgmma_commit();
        wgmma_pin(d);
        wgmma_wait<0>();
        wgmma_pin(d);
        __syncthreads();
    }
    const int thread = threadIdx.x;
#pragma unroll
    for (int i = 0; i < columns / 2; ++i) {
        const int row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2);
        product.d[row * columns + 8 * (i / 4) + 2 * (thread % 4) + i % 2] = d[i];
    }
}

template <int columns, int a_major, int b_major, bool is_bf16>
__global__ void __launch_bounds__(128) product_kernel(const Product product) {
    PCONV_DYN_SMEM(shared);
    if constexpr (hopper_instructions) multiply<columns, a_major, b_major, is_bf16>(product, shared);
}

// ---- TMA: a box of [box_z, 1, 64] around a corner, in swizzled rows

struct Box {
    TensorMap map;
    int corner[3];
    uint16_t* seen;  // [box_z, 64]
};
constexpr int box_z = 24, tma_shared_bytes = box_z * 128 + 8;

__global__ void tma_kernel(const __grid_constant__ Box box) {
    PCONV_DYN_SMEM(shared);
    const uint32_t tile = smem_u32(shared), barrier = tile + box_z * 128;
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(barrier, box_z * 128);
        tma_load_3d(tile, &box.map, box.corner[0], box.corner[1], box.corner[2], barrier);
    }
    mbarrier_wait(barrier, 0);
    for (int row = 0; row < box_z; ++row)
        for (int column = threadIdx.x; column < 64; column += 32)
            box.seen[row * 64 + column] =
                *reinterpret_cast<const uint16_t*>(shared + swizzle_128(row, column / 8) + column % 8 * 2);
}

// ---- named barriers: each warpgroup has its own, and they do not wait for each other

__global__ void named_barrier_kernel(int* sums) {
    PCONV_DYN_SMEM(shared);
    int* const values = reinterpret_cast<int*>(shared);
    const int thread = threadIdx.x, group = thread / 128;
    values[thread] = thread;
    for (int i = 0; i <= group; ++i) named_barrier(1 + group, 128);  // twice as many in the second group
    sums[thread] = values[thread ^ 127] + thread;
}

}  // namespace pconv::cuda
