// The CPU operators' common steps: masks as bytes, and the passes around the library's convolution.
#pragma once

#include "composed.h"

namespace pconv {

// A mask's bytes, without a copy where they are bytes already, and whether there are holes among them.
inline void read_mask(MaskBytes& result, const Tensor& given, const char* name) {
    const DType dtype = dtype_of(given, name);
    const auto sizes = given.sizes(), strides = given.strides();
    if (wants_binary_check()) {
        const int64_t odd = cpu::count_not_binary(given.const_data_ptr(), dtype, sizes.data(), strides.data());
        PCONV_EXPECT(odd == 0, name, ": expected zeros and ones (PCONV_CHECK=1), got ", odd, " other values");
    }
    result.owner = given;
    if (dtype != DType::u8 || !given.is_contiguous()) {
        result.owner = empty_of(given, Ints(sizes.begin(), sizes.end()), ScalarType::Byte);
        cpu::mask_to_bytes(
            given.const_data_ptr(), dtype, sizes.data(), strides.data(),
            static_cast<uint8_t*>(result.owner->mutable_data_ptr()));
    }
    result.set_bytes();
    result.holes = cpu::has_zero(result.mask.bytes, given.numel());
}

// The passes around a convolution.
struct CpuPasses {
    static constexpr bool in_parts = true;  // batch_parts.h

    void copy_valid(const Geometry& g, const Mask& mask, const Tensor& x, Tensor& out) const {
        cpu::masked_copy(g, mask, x.const_data_ptr(), out.mutable_data_ptr());
    }
    Tensor masked_copy(const Geometry& g, const Mask& mask, const Tensor& x) const {
        Tensor out = scratch_beside(x);
        copy_valid(g, mask, x, out);
        return out;
    }
    void clear_holes(const Geometry& g, const Mask& mask, Tensor& x) const { copy_valid(g, mask, x, x); }
    void renormalise(
        const Geometry& g, const Ratio& ratio, const void* bias, double negative_slope, const Tensor& raw,
        Tensor& y) const {
        cpu::renormalise(g, ratio, bias, negative_slope, raw.const_data_ptr(), y.mutable_data_ptr());
    }
    void renormalise(const Geometry& g, const Ratio& ratio, const void* bias, double negative_slope, Tensor& y) const {
        renormalise(g, ratio, bias, negative_slope, y, y);
    }
    void scale_gradient(const Geometry& g, const Ratio& ratio, const Tensor& grad, Tensor& scaled, double* sums) const {
        cpu::scale_gradient(g, ratio, grad.const_data_ptr(), scaled.mutable_data_ptr(), sums);
    }
    void add(const Geometry& g, const Tensor& term, double* sums) const {
        cpu::add_to_sums(g.dtype, term.const_data_ptr(), term.numel(), sums);
    }
    void round(const Geometry& g, const std::vector<double>& sums, Tensor& out) const {
        cpu::round_sums(g.dtype, sums.data(), int64_t(sums.size()), out.mutable_data_ptr());
    }
    // The gradient by the bias from its sums, none where it was not asked for.
    Tensor bias_gradient(const Geometry& g, const Tensor& like, const std::vector<double>& sums) const {
        Tensor db = empty_of(like, {int64_t(sums.size())}, like.scalar_type());
        if (!sums.empty()) round(g, sums, db);
        return db;
    }
};

}  // namespace pconv
