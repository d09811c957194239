// Arena: tensors laid out one after another in one allocation. A layout function runs twice: over a measuring arena,
// which has no memory (the plan of --dry-run), then over one bound to a Buffer. Both give the same offsets.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "ssa/runtime/tensor.h"

namespace ssa {

class Arena {
 public:
  static constexpr std::size_t kAlignment = 256;

  struct Entry {
    std::string name;
    std::size_t bytes;
  };

  Arena() = default;  ///< measures only
  Arena(void* base, std::size_t capacity) : base_(static_cast<char*>(base)), capacity_(capacity) {}

  Tensor allocate(const std::string& name, DType dtype, Shape shape) {
    const Tensor wanted(nullptr, dtype, shape);
    const std::size_t bytes = (wanted.bytes() + kAlignment - 1) / kAlignment * kAlignment;
    SSA_CHECK(used_ + bytes >= used_, "arena: ", name, " ", shape.to_string(), " does not fit 64-bit addresses");
    SSA_CHECK(!base_ || used_ + bytes <= capacity_, "arena: ", name, " ", shape.to_string(), " needs ", bytes,
              " bytes at ", used_, ", planned ", capacity_);
    entries_.push_back({name, bytes});
    const Tensor tensor(base_ ? base_ + used_ : nullptr, dtype, shape);
    used_ += bytes;
    return tensor;
  }
  std::size_t used() const { return used_; }
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  char* base_ = nullptr;
  std::size_t capacity_ = 0, used_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace ssa
