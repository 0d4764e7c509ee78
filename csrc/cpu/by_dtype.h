// From a dtype that is known at run time to a type.
#pragma once

#include "../geometry.h"
#include "numeric.h"

#include <vector>

namespace pconv::cpu {

// visit(T{}) for the dtype of a convolution, which is never bytes.
template <class Visit>
void by_dtype(DType dtype, const Visit& visit) {
    switch (dtype) {
        case DType::f64: return visit(double{});
        case DType::f32: return visit(float{});
        case DType::bf16: return visit(BFloat16{});
        case DType::f16: return visit(Half{});
        case DType::u8: return;
    }
}

// A bias as it is computed with; empty for none.
template <class T>
std::vector<precise_t<T>> widened(const void* values, int64_t count) {
    std::vector<precise_t<T>> wide(values ? count : 0);
    for (size_t k = 0; k < wide.size(); ++k) wide[k] = load(static_cast<const T*>(values)[k]);
    return wide;
}

}  // namespace pconv::cpu
