// XXH3-64 checksums in the form that dataset.json and checkpoint manifests store: 16 lower-case hexadecimal digits.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

struct XXH3_state_s;

namespace ssa {

/// Two lower-case hexadecimal digits per byte.
std::string to_hex(const void* data, std::size_t bytes);

std::string xxh3_hex(const void* data, std::size_t bytes);

/// The checksum of data that arrives in pieces.
class Xxh3 {
 public:
  Xxh3();
  void update(const void* data, std::size_t bytes);
  std::string hex() const;  ///< of all data added until now

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

}  // namespace ssa
