// GPT-2's byte alphabet: the files of byte-level BPE tokenizers write each byte of a token as a printable character.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>

#include "ssa/tokenizer/utf8.h"

namespace ssa {

/// Byte b of a token is code point to_char[b] in the files.
struct ByteAlphabet {
  std::array<std::uint32_t, 256> to_char;
  std::unordered_map<std::uint32_t, unsigned char> to_byte;

  ByteAlphabet() {
    std::uint32_t next = 256;
    for (std::uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      to_char[b] = printable ? b : next++;
      to_byte[to_char[b]] = static_cast<unsigned char>(b);
    }
  }
  static const ByteAlphabet& get() {
    static const ByteAlphabet alphabet;
    return alphabet;
  }

  std::string token_of(const std::string& bytes) const {
    std::string token;
    for (const char byte : bytes) append_utf8(token, to_char[static_cast<unsigned char>(byte)]);
    return token;
  }

  /// Sets `bytes` to the bytes of `token`; false if it has a character outside the alphabet.
  bool bytes_of(const std::string& token, std::string& bytes) const {
    bytes.clear();
    if (valid_utf8_prefix(token) != token.size()) return false;
    const auto* p = reinterpret_cast<const unsigned char*>(token.data());
    const auto* const end = p + token.size();
    while (p != end) {
      const auto it = to_byte.find(next_code_point(p));
      if (it == to_byte.end()) return false;
      bytes += static_cast<char>(it->second);
    }
    return true;
  }
};

}  // namespace ssa
