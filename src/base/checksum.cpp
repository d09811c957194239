#include "ssa/base/checksum.h"

#include <xxhash.h>

#include <cstdint>

namespace ssa {

std::string xxh3_hex(const void* data, std::size_t bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::uint64_t hash = XXH3_64bits(data, bytes);
  std::string text(16, '0');
  for (std::size_t i = text.size(); i-- > 0; hash >>= 4) text[i] = kDigits[hash & 15];
  return text;
}

}  // namespace ssa
