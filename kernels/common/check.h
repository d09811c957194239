// Shape and dtype checks of the ops' `validate` functions.
#pragma once

#include "ssa/runtime/tensor.h"

namespace ssa {

/// The dtype of f32 tensors of an op whose activations are `act`: f64 when the CPU runs in f64, else f32.
inline DType real_of(DType act) { return act == DType::f64 ? DType::f64 : DType::f32; }

/// Throws unless `tensor` has `rank` dimensions, which `expected` names: "[B, T, HQ, D]".
inline void expect_rank(const char* op, const char* name, const Tensor& tensor, int rank, const char* expected) {
  SSA_CHECK(tensor.shape().rank() == rank, op, ": ", name, " is ", tensor.shape().to_string(), ", expected ", expected);
}

/// Throws unless `tensor` is given and has this shape and dtype.
inline void expect(const char* op, const char* name, const Tensor& tensor, const Shape& shape, DType dtype) {
  SSA_CHECK(tensor, op, ": ", name, " is missing, expected ", shape.to_string());
  SSA_CHECK(tensor.shape() == shape, op, ": ", name, " is ", tensor.shape().to_string(), ", expected ",
            shape.to_string());
  SSA_CHECK(tensor.dtype() == dtype, op, ": ", name, " is ", name_of(tensor.dtype()), ", expected ", name_of(dtype));
}

/// The same for a tensor that may be absent.
inline void expect_if_given(const char* op, const char* name, const Tensor& tensor, const Shape& shape, DType dtype) {
  if (tensor) expect(op, name, tensor, shape, dtype);
}

}  // namespace ssa
