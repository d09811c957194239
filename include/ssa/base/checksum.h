// XXH3-64 as the text that dataset.json and the manifests hold: 16 lower-case hexadecimal digits.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

struct XXH3_state_s;

namespace ssa {

std::string xxh3_hex(const void* data, std::size_t bytes);

/// The same for bytes that come piece by piece.
class Xxh3 {
 public:
  Xxh3();
  void update(const void* data, std::size_t bytes);
  std::string hex() const;  ///< of everything so far

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

}  // namespace ssa
