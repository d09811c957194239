// A file descriptor with an owner.
#pragma once

#include <unistd.h>

#include <utility>

namespace ssa {

/// Closes the descriptor at the end of its life; for files whose close() has nothing to report.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }

  int get() const { return number_; }  ///< -1: none

 private:
  int number_ = -1;
};

}  // namespace ssa
