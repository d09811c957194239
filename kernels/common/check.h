// Shape and dtype checks for the ops' `validate` functions. Each throws Error that names the op and the tensor, what
// was found and what was expected.
#pragma once

#include "ssa/runtime/padded_columns.h"
#include "ssa/runtime/tensor.h"

namespace ssa {

/// The dtype of the tensors that an op header calls f32, in an op whose activations are `act`: f64 if act is f64 (tests
/// on the CPU), else f32.
inline DType real_of(DType act) { return act == DType::f64 ? DType::f64 : DType::f32; }

/// Throws unless `tensor` has `rank` dimensions. `expected` names them in the message: "[B, T, HQ, D]".
inline void expect_rank(const char* op, const char* name, const Tensor& tensor, int rank, const char* expected) {
  SSA_CHECK(tensor.shape().rank() == rank, op, ": ", name, " is ", tensor.shape().to_string(), ", expected ", expected);
}

/// Throws unless `tensor` is present and has this shape and dtype.
inline void expect(const char* op, const char* name, const Tensor& tensor, const Shape& shape, DType dtype) {
  SSA_CHECK(tensor, op, ": ", name, " is missing, expected ", shape.to_string());
  SSA_CHECK(tensor.shape() == shape, op, ": ", name, " is ", tensor.shape().to_string(), ", expected ",
            shape.to_string());
  SSA_CHECK(tensor.dtype() == dtype, op, ": ", name, " is ", name_of(tensor.dtype()), ", expected ", name_of(dtype));
}

/// The same for a matrix whose rows may be padded (padded_columns).
inline void expect_rows(const char* op, const char* name, const Tensor& tensor, std::int64_t rows, std::int64_t columns,
                        DType dtype) {
  const bool padded = tensor && tensor.shape().rank() == 2 &&
                      (tensor.dim(1) == padded_columns(columns) || tensor.dim(1) == padded_columns(columns, 16));
  expect(op, name, tensor, {rows, padded ? tensor.dim(1) : columns}, dtype);
}

/// The same, for a tensor that may be absent.
inline void expect_if_given(const char* op, const char* name, const Tensor& tensor, const Shape& shape, DType dtype) {
  if (tensor) expect(op, name, tensor, shape, dtype);
}

}  // namespace ssa
