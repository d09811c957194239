#include "ssa/base/checksum.h"

#include <xxhash.h>

#include <new>

namespace ssa {
namespace {

std::string hex_of(XXH64_hash_t hash) {
  XXH64_canonical_t bytes;
  XXH64_canonicalFromHash(&bytes, hash);
  return to_hex(&bytes, sizeof bytes);
}

}  // namespace

std::string to_hex(const void* data, std::size_t bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  const auto* const values = static_cast<const unsigned char*>(data);
  std::string text;
  text.reserve(2 * bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    text += kDigits[values[i] >> 4];
    text += kDigits[values[i] & 15];
  }
  return text;
}

std::string xxh3_hex(const void* data, std::size_t bytes) { return hex_of(XXH3_64bits(data, bytes)); }

void Xxh3::Free::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

Xxh3::Xxh3() : state_(XXH3_createState()) {
  if (!state_ || XXH3_64bits_reset(state_.get()) != XXH_OK) throw std::bad_alloc();
}

void Xxh3::update(const void* data, std::size_t bytes) { XXH3_64bits_update(state_.get(), data, bytes); }
std::string Xxh3::hex() const { return hex_of(XXH3_64bits_digest(state_.get())); }

}  // namespace ssa
