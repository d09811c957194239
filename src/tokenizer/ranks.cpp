#include "src/tokenizer/ranks.h"

#include <openssl/evp.h>

#include <algorithm>
#include <climits>
#include <cstddef>
#include <utility>
#include <vector>

#include "ssa/base/error.h"

namespace ssa {

/// EVP_DecodeBlock itself accepts '=' anywhere, and spaces.
std::string base64_decode(std::string_view text) {
  std::string digits(text.substr(0, text.find_last_not_of('=') + 1));
  const std::size_t padding = (4 - digits.size() % 4) % 4;
  constexpr const char* kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  if (padding == 3 || digits.size() > INT_MAX - 3u || digits.find_first_not_of(kDigits) != digits.npos) return "";
  digits.append(padding, '=');
  std::string out(digits.size() / 4 * 3, '\0');
  EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()), reinterpret_cast<const unsigned char*>(digits.data()),
                  static_cast<int>(digits.size()));
  out.resize(out.size() - padding);
  return out;
}

void set_ranks(Tokenizer::Parts& parts, const std::unordered_map<std::string, std::int32_t>& ranks,
               std::int32_t first_id) {
  Bpe::Vocabulary& vocabulary = parts.vocabulary;
  for (std::size_t b = 0; b < 256; ++b) {
    const auto it = ranks.find(std::string(1, static_cast<char>(b)));
    SSA_CHECK(it != ranks.end(), "no token for byte ", b, ", expected all 256");
    vocabulary.byte_ids[b] = it->second + first_id;
  }
  std::vector<std::pair<std::int32_t, std::string_view>> order;
  for (const auto& [text, rank] : ranks) order.emplace_back(rank, text);
  std::sort(order.begin(), order.end());
  parts.texts.resize(static_cast<std::size_t>(order.back().first + first_id) + 1);
  // tiktoken merges any two neighbors whose bytes together are a token, the lowest rank first. So every split of a
  // token into two others is a merge with the token's rank.
  for (const auto& [rank, view] : order) {
    const std::string text(view);
    for (std::size_t cut = 1; cut < text.size(); ++cut) {
      const auto left = ranks.find(text.substr(0, cut));
      if (left == ranks.end()) continue;
      const auto right = ranks.find(text.substr(cut));
      if (right != ranks.end())
        vocabulary.merges.push_back(
            {left->second + first_id, right->second + first_id, rank + first_id, static_cast<std::uint32_t>(rank)});
    }
    parts.texts[static_cast<std::size_t>(rank + first_id)] = text;
    vocabulary.whole.emplace(text, rank + first_id);
  }
}

}  // namespace ssa
