// The launches of smooth_fill (run_smooth.cpp): the thin plate under tension in the holes of each plane of a picture,
// by conjugate gradients with a V-cycle of a multigrid as preconditioner. pconv_cuda/smooth.py is the same in plain
// torch.
//
// Planes are dense, [planes, h, w] in T (float, double for doubles), and 0 outside the unknown pixels; unknown: a byte
// a pixel, [mask planes, h, w]. Nothing synchronises with the host: a plane that has converged is skipped by its state.
#pragma once

#include "../problem.h"
#include "../status.h"

namespace pconv::cuda {

constexpr int smooth_degree = 3;       // of the smoother's polynomial, as in smooth.py
constexpr double smooth_range = 20;    // it is small on [largest / smooth_range, largest]
constexpr double smooth_renew = 1e-2;  // the residual is formed anew each time the error has fallen so far
// p A p is about r z. Far below it the direction is rounding error.
constexpr double smooth_lost = 1.0 / 16;
constexpr double smooth_grown = 16;  // growth of r z over its least value that means rounding errors dominate

// One level. A mask has a plane for every sample or one for all, and for every channel or one for all.
struct SmoothLevel {
    int64_t h, w, planes, channels, mask_n, mask_c;
    double stiffness, tension;
    const uint8_t* unknown;

    int64_t pixels() const { return h * w; }
};

// What the conjugate gradients know of a plane, on the device.
struct SmoothState {
    double rz, least, goal, renew_below;  // r z, its least value, what is enough, where the residual is formed anew
    double step, turn;
    int32_t going, renewing;
};

enum class SmoothSum { first, product, turn };  // what the state is brought up to date from

// ---- smooth_start.cu: from the picture to the first guess, and back

Status smooth_unknown(const uint8_t* valid, int64_t count, uint8_t* unknown, cudaStream_t stream);
Status smooth_unknown_below(const SmoothLevel& fine, const SmoothLevel& coarse, uint8_t* unknown, cudaStream_t stream);
// picture = input where valid, else 0; weight = 1 where valid and one of 8 neighbours is unknown.
Status smooth_load(
    const SmoothLevel& level, DType dtype, const void* input, const Strides& strides,  // [N, C, H, W]
    void* picture, void* weight, cudaStream_t stream);
Status smooth_mean(
    const SmoothLevel& fine, const SmoothLevel& coarse, DType dtype, const void* value, const void* weight,
    void* coarse_value, void* coarse_weight, cudaStream_t stream);
// value = the plane below, doubled, where unknown.
Status smooth_double(
    const SmoothLevel& fine, const SmoothLevel& coarse, DType dtype, const void* coarse_value, void* value,
    cudaStream_t stream);
Status smooth_zero(DType dtype, void* values, int64_t count, cudaStream_t stream);
// out = picture + sum in the holes.
Status smooth_store(
    const SmoothLevel& level, DType dtype, const void* picture, const void* sum, void* out, const Strides& strides,
    cudaStream_t stream);

// ---- smooth_tiles.cu: the smoother, all of its sweeps over a tile in shared memory

// x = the polynomial of r, and r = r - plate(x).
Status smooth_down(
    const SmoothLevel& level, DType dtype, const SmoothState* state, const void* given, void* x, void* r,
    cudaStream_t stream);
// x += what the plane below says, doubled (nullptr: nothing), and the polynomial of what is then left of r.
Status smooth_up(
    const SmoothLevel& level, const SmoothLevel* coarse, DType dtype, const SmoothState* state, const void* below,
    const void* r, void* x, cudaStream_t stream);

// ---- smooth_steps.cu: between the levels, and the conjugate gradients

// coarse_r = the transpose of doubling of r, where unknown.
Status smooth_restrict(
    const SmoothLevel& fine, const SmoothLevel& coarse, DType dtype, const SmoothState* state, const void* r,
    void* coarse_r, cudaStream_t stream);
// r = -plate(picture), formed in double; for planes that are renewing.
Status smooth_residual(
    const SmoothLevel& level, DType dtype, const SmoothState* state, const void* picture, void* r, cudaStream_t stream);
// q = plate(p) and the parts of p q.
Status smooth_product(
    const SmoothLevel& level, DType dtype, const SmoothState* state, const void* p, void* q, double* parts,
    cudaStream_t stream);
// sum += step p, r -= step q; a plane that is renewing has picture += sum, sum = 0.
Status smooth_step(
    const SmoothLevel& level, DType dtype, const SmoothState* state, const void* p, const void* q, void* sum, void* r,
    void* picture, cudaStream_t stream);
// The parts of r z, and of q z where q is not nullptr.
Status smooth_dots(
    const SmoothLevel& level, DType dtype, const SmoothState* state, const void* r, const void* q, const void* z,
    double* parts, cudaStream_t stream);
Status smooth_direction(  // p = z + turn p
    const SmoothLevel& level, DType dtype, const SmoothState* state, const void* z, void* p, cudaStream_t stream);
// The parts of each plane added in order, and its state after them.
Status smooth_state(
    const SmoothLevel& level, SmoothSum what, const double* parts, double tolerance, SmoothState* state,
    cudaStream_t stream);
int64_t smooth_parts(const SmoothLevel& level);  // of a sum over a plane; two sums are [2, planes, parts]

// ---- run_smooth.cpp

struct SmoothFill {
    int64_t n, c, h, w;
    DType dtype;
    const void* input;    // [N, C, H, W], copied to out already
    Strides strides;      // of input and out
    const uint8_t* mask;  // [mask_n, mask_c, H, W], 0 in holes
    int64_t mask_n, mask_c;
    double tension, tolerance;
    int64_t max_iterations;
    void* out;
};

int64_t smooth_workspace(const SmoothFill& fill);  // bytes
// workspace: zeros.
Status run_smooth(const SmoothFill& fill, void* workspace, cudaStream_t stream);

}  // namespace pconv::cuda
