#include "ssa/tokenizer/tokenizer.h"

#include <cstring>
#include <utility>

#include "ssa/base/error.h"

namespace ssa {
namespace {

constexpr std::size_t kKeyBytes = 24;

std::uint64_t load8(const char* p) {
  std::uint64_t value;
  std::memcpy(&value, p, 8);
  return value;
}

/// The last n < 8 bytes before `end`. Reads no other byte.
std::uint64_t load_tail(const char* end, std::size_t n) {
  if (n >= 4) {
    std::uint32_t low, high;
    std::memcpy(&low, end - n, 4);
    std::memcpy(&high, end - 4, 4);
    return low | static_cast<std::uint64_t>(high) << (8 * (n - 4));
  }
  std::uint64_t value = 0;
  for (const char* p = end; n-- > 0;) value = value << 8 | static_cast<unsigned char>(*--p);
  return value;
}

struct Key {
  std::uint64_t words[3];  // the bytes of the piece, padded with zeros

  explicit Key(std::string_view piece) {
    const char* p = piece.data();
    const std::size_t n = piece.size();
    words[1] = words[2] = 0;
    if (n < 8) {
      words[0] = load_tail(p + n, n);
    } else if (n < 16) {
      words[0] = load8(p);
      words[1] = load_tail(p + n, n - 8);
    } else {
      words[0] = load8(p);
      words[1] = load8(p + 8);
      words[2] = n < 24 ? load_tail(p + n, n - 16) : load8(p + 16);
    }
  }

  std::uint64_t hash(std::size_t length) const {
    std::uint64_t h = (words[0] ^ length) * 0x9e3779b97f4a7c15ull;
    h = (h ^ (h >> 32) ^ words[1]) * 0xd6e8feb86659fd93ull;
    h = (h ^ (h >> 32) ^ words[2]) * 0xff51afd7ed558ccdull;
    return h >> 32;
  }
};

}  // namespace

Tokenizer::Tokenizer(Parts parts) : parts_(std::move(parts)), bpe_(std::move(parts_.vocabulary)) {
  for (AddedToken token : parts_.added) {
    if (token.normalized && normalizes()) {
      std::string buffer;
      token.content = std::string(normalized(token.content, buffer));
    }
    (token.normalized ? normalized_ : raw_).add(token);
  }
}

std::string_view Tokenizer::normalized(std::string_view text, std::string& buffer) const {
  if (parts_.nfc && normalize_nfc(text, buffer)) text = buffer;
  if (text.empty() || (parts_.prepend.empty() && parts_.replace.empty())) return text;
  std::string out = parts_.prepend;
  out += text;
  for (const auto& [from, to] : parts_.replace) {
    std::string replaced;
    std::size_t done = 0;
    for (std::size_t at = out.find(from); at != out.npos; at = out.find(from, done)) {
      replaced.append(out, done, at - done);
      replaced += to;
      done = at + from.size();
    }
    replaced.append(out, done);
    out = std::move(replaced);
  }
  buffer = std::move(out);
  return buffer;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) {
    SSA_CHECK(id >= 0 && id < vocab_size(), "token id ", id, ", expected 0 to ", vocab_size() - 1);
    text += parts_.texts[static_cast<std::size_t>(id)];
  }
  if (parts_.drop_first_space && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

bool Tokenizer::is_special(std::int32_t id) const {
  return id == parts_.eos_token_id ||
         std::any_of(parts_.added.begin(), parts_.added.end(),
                     [id](const AddedToken& token) { return token.special && token.id == id; });
}

Encoder::Encoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer), cached_(tokenizer.bpe_.has_merges()) {
  if (cached_) cache_.resize(kSlots);
}

void Encoder::encode(std::string_view text, IdBuffer& out, bool special_as_text) {
  tokenizer_.raw_.split(
      text, special_as_text,
      [&](std::string_view gap) {
        const bool first = gap.data() == text.data();
        if (tokenizer_.normalizes()) gap = tokenizer_.normalized(gap, normal_form_);
        tokenizer_.normalized_.split(
            gap, special_as_text,
            [&](std::string_view part) { encode_gap(part, out, first && part.data() == gap.data()); },
            [&](std::int32_t id) { out.push_back(id); });
      },
      [&](std::int32_t id) { out.push_back(id); });
}

void Encoder::encode_gap(std::string_view text, IdBuffer& out, bool at_start) {
  tokenizer_.parts_.splitter.split(
      text, [&](std::string_view piece) { encode_piece(piece, out); }, at_start);
}

inline void Encoder::encode_piece(std::string_view piece, IdBuffer& out) {
  if (!cached_ || piece.size() > kKeyBytes) return tokenizer_.bpe_.encode(piece, out, scratch_);
  const Key key(piece);
  Slot& slot = cache_[key.hash(piece.size()) % kSlots];
  if (slot.length == piece.size() && slot.key[0] == key.words[0] && slot.key[1] == key.words[1] &&
      slot.key[2] == key.words[2]) {
    std::memcpy(out.reserve_more(9), slot.ids, sizeof slot.ids);  // all nine: faster than a loop over `count`
    out.advance(slot.count);
    return;
  }
  const std::size_t start = out.size();
  tokenizer_.bpe_.encode(piece, out, scratch_);
  const std::size_t count = out.size() - start;
  if (count > 9) return;
  std::memcpy(slot.key, key.words, sizeof slot.key);
  slot.length = static_cast<std::uint8_t>(piece.size());
  slot.count = static_cast<std::uint8_t>(count);
  std::memcpy(slot.ids, out.data() + start, count * sizeof(std::int32_t));
}

}  // namespace ssa
