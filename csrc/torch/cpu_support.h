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
    Tensor masked_copy(const Geometry& g, const Mask& mask, const Tensor& x) const {
        Tensor out = torch::stable::empty_like(x);
        cpu::masked_copy(g, mask, x.const_data_ptr(), out.mutable_data_ptr());
        return out;
    }
    void clear_holes(const Geometry& g, const Mask& mask, Tensor& x) const {
        cpu::masked_copy(g, mask, x.const_data_ptr(), x.mutable_data_ptr());
    }
    void renormalise(const Geometry& g, const Ratio& ratio, const void* bias, double negative_slope, Tensor& y) const {
        cpu::renormalise(g, ratio, bias, negative_slope, y.mutable_data_ptr());
    }
};

}  // namespace pconv
