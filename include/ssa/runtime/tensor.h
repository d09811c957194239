// Tensor: a view of contiguous memory with a dtype and a shape. It never owns; Buffer and Arena do.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "ssa/base/dtype.h"
#include "ssa/base/error.h"

namespace ssa {

/// Up to four dimensions, row-major. 64-bit, because tokens x vocabulary overflows 32 bits.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) {
    SSA_CHECK(dims.size() <= kMaxRank, "shape: ", dims.size(), " dimensions, expected at most ", kMaxRank);
    for (std::int64_t d : dims) dims_[rank_++] = d;
  }
  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return dims_[i]; }
  std::int64_t count() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank_; ++i)
      SSA_CHECK(!__builtin_mul_overflow(n, dims_[i], &n), "a tensor of shape ", to_string(), " has too many elements");
    return n;
  }
  bool operator==(const Shape&) const = default;
  std::string to_string() const {
    std::string s = "[";
    for (int i = 0; i < rank_; ++i) s += concat(i ? ", " : "", dims_[i]);
    return s += "]";
  }

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

class Tensor {
 public:
  Tensor() = default;  ///< an absent optional tensor
  Tensor(void* data, DType dtype, Shape shape) : data_(data), shape_(shape), dtype_(dtype), defined_(true) {}

  /// False for an optional tensor that was not given. A tensor of a measuring arena is defined and has no memory.
  explicit operator bool() const { return defined_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::int64_t dim(int i) const { return shape_[i]; }
  std::int64_t count() const { return defined_ ? shape_.count() : 0; }
  std::size_t bytes() const {
    std::size_t bytes = 0;
    SSA_CHECK(!__builtin_mul_overflow(static_cast<std::size_t>(count()), size_of(dtype_), &bytes), "a tensor of shape ",
              shape_.to_string(), " has too many bytes");
    return bytes;
  }
  void* data() const { return data_; }

  /// Pointer to the first element; T must be the tensor's dtype.
  template <class T>
  T* as() const {
    SSA_CHECK(kDTypeOf<T> == dtype_, "tensor ", shape_.to_string(), " is ", name_of(dtype_), ", read as ",
              name_of(kDTypeOf<T>));
    return static_cast<T*>(data_);
  }
  /// as<T>(), or null when the tensor is absent.
  template <class T>
  T* as_or_null() const {
    return defined_ ? as<T>() : nullptr;
  }

  /// The same elements under another shape.
  Tensor view(Shape shape) const {
    SSA_CHECK(shape.count() == count(), "tensor ", shape_.to_string(), " viewed as ", shape.to_string());
    return {data_, dtype_, shape};
  }
  /// Rows [begin, end) of the first dimension.
  Tensor rows(std::int64_t begin, std::int64_t end) const {
    SSA_CHECK(0 <= begin && begin <= end && end <= dim(0), "tensor ", shape_.to_string(), ": rows ", begin, " to ",
              end);
    std::array<std::int64_t, Shape::kMaxRank> d{end - begin, 1, 1, 1};
    std::int64_t stride = 1;
    for (int i = 1; i < shape_.rank(); ++i) stride *= d[i] = shape_[i];
    void* start =
        data_ ? static_cast<char*>(data_) + begin * stride * static_cast<std::int64_t>(size_of(dtype_)) : nullptr;
    switch (shape_.rank()) {
      case 1: return {start, dtype_, {d[0]}};
      case 2: return {start, dtype_, {d[0], d[1]}};
      case 3: return {start, dtype_, {d[0], d[1], d[2]}};
      default: return {start, dtype_, {d[0], d[1], d[2], d[3]}};
    }
  }

 private:
  void* data_ = nullptr;
  Shape shape_;
  DType dtype_ = DType::f32;
  bool defined_ = false;
};

}  // namespace ssa
