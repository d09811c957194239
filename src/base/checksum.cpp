#include "ssa/base/checksum.h"

#include <xxhash.h>

#include <cstdint>
#include <new>

namespace ssa {
namespace {

std::string to_hex(std::uint64_t hash) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text(16, '0');
  for (std::size_t i = text.size(); i-- > 0; hash >>= 4) text[i] = kDigits[hash & 15];
  return text;
}

}  // namespace

std::string xxh3_hex(const void* data, std::size_t bytes) { return to_hex(XXH3_64bits(data, bytes)); }

void Xxh3::Free::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

Xxh3::Xxh3() : state_(XXH3_createState()) {
  if (!state_ || XXH3_64bits_reset(state_.get()) != XXH_OK) throw std::bad_alloc();
}

void Xxh3::update(const void* data, std::size_t bytes) { XXH3_64bits_update(state_.get(), data, bytes); }
std::string Xxh3::hex() const { return to_hex(XXH3_64bits_digest(state_.get())); }

}  // namespace ssa
