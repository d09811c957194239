#include "ssa/tokenizer/utf8.h"

#include <cstring>

namespace ssa {
namespace {

struct Part {
  std::size_t length;  // bytes of the well-formed sequence, or of the maximal ill-formed part
  bool valid;
};

// The table of well-formed byte sequences (Unicode 3.9, table 3-7), as ranges of the second byte.
Part examine(const unsigned char* p, std::size_t left) {
  const unsigned lead = p[0];
  if (lead < 0x80) return {1, true};
  if (lead < 0xc2 || lead > 0xf4) return {1, false};
  const std::size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  unsigned low = 0x80, high = 0xbf;
  if (lead == 0xe0) low = 0xa0;
  if (lead == 0xed) high = 0x9f;
  if (lead == 0xf0) low = 0x90;
  if (lead == 0xf4) high = 0x8f;
  for (std::size_t i = 1; i < length; ++i) {
    if (i >= left || p[i] < low || p[i] > high) return {i, false};
    low = 0x80;
    high = 0xbf;
  }
  return {length, true};
}

}  // namespace

std::size_t valid_utf8_prefix(std::string_view text) {
  const auto* begin = reinterpret_cast<const unsigned char*>(text.data());
  const std::size_t size = text.size();
  std::size_t i = 0;
  while (i < size) {
    while (size - i >= 32) {  // ASCII, 32 bytes at a time
      std::uint64_t words[4];
      std::memcpy(words, begin + i, 32);
      if ((words[0] | words[1] | words[2] | words[3]) & 0x8080808080808080ull) break;
      i += 32;
    }
    // Then at least 32 bytes, or the rest, one code point at a time.
    const std::size_t stop = size - i < 32 ? size : i + 32;
    while (i < stop) {
      const Part part = examine(begin + i, size - i);
      if (!part.valid) return i;
      i += part.length;
    }
  }
  return size;
}

std::size_t replace_invalid_utf8(std::string& text) {
  std::size_t good = valid_utf8_prefix(text);
  if (good == text.size()) return 0;
  std::string out;
  out.reserve(text.size() + 16);
  std::size_t replaced = 0;
  std::string_view rest = text;
  while (true) {
    out.append(rest.substr(0, good));
    rest.remove_prefix(good);
    if (rest.empty()) break;
    out.append("\xef\xbf\xbd");
    ++replaced;
    rest.remove_prefix(examine(reinterpret_cast<const unsigned char*>(rest.data()), rest.size()).length);
    good = valid_utf8_prefix(rest);
  }
  text = std::move(out);
  return replaced;
}

void append_utf8(std::string& out, std::uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xc0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xe0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3f));
    out += static_cast<char>(0x80 | (c & 0x3f));
  } else {
    out += static_cast<char>(0xf0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3f));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3f));
    out += static_cast<char>(0x80 | (c & 0x3f));
  }
}

}  // namespace ssa
