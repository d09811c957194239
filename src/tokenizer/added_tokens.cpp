#include "ssa/tokenizer/added_tokens.h"

#include <cstring>

#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace {

std::uint8_t class_at(std::string_view text, std::size_t at) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data()) + at;
  return UnicodeTable::get()[next_code_point(p)];
}

std::size_t previous_start(std::string_view text, std::size_t at) {
  do --at;
  while ((static_cast<unsigned char>(text[at]) & 0xc0) == 0x80);
  return at;
}

}  // namespace

int AddedTokens::child(int node, unsigned char byte) const {
  for (const auto& [key, next] : nodes_[static_cast<std::size_t>(node)].children)
    if (key == byte) return next;
  return -1;
}

void AddedTokens::add(const AddedToken& token) {
  if (token.content.empty()) return;
  int node = 0;
  for (const char c : token.content) {
    const auto byte = static_cast<unsigned char>(c);
    int next = child(node, byte);
    if (next < 0) {
      next = static_cast<int>(nodes_.size());
      nodes_[static_cast<std::size_t>(node)].children.emplace_back(byte, next);
      nodes_.emplace_back();
    }
    node = next;
  }
  nodes_[static_cast<std::size_t>(node)].token = static_cast<int>(tokens_.size());
  const auto first = static_cast<unsigned char>(token.content[0]);
  first_[first] = true;
  only_first_ = tokens_.empty() || only_first_ == first ? first : -2;
  if (token.content.size() > 1)
    starts_[first << 8 | static_cast<unsigned char>(token.content[1])] = true;
  else
    for (int second = 0; second < 256; ++second) starts_[first << 8 | second] = true;
  tokens_.push_back(token);
}

AddedTokens::Found AddedTokens::find(std::string_view text, std::size_t from) const {
  if (tokens_.empty()) return {-1, 0, 0};
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  for (std::size_t i = from; i < text.size(); ++i) {
    if (only_first_ >= 0) {
      const void* hit = std::memchr(bytes + i, only_first_, text.size() - i);
      if (!hit) break;
      i = static_cast<std::size_t>(static_cast<const unsigned char*>(hit) - bytes);
    } else if (!first_[bytes[i]]) {
      continue;
    }
    if (i + 1 < text.size() && !starts_[bytes[i] << 8 | bytes[i + 1]]) continue;
    Found longest{-1, i, i};
    int node = 0;
    for (std::size_t at = i; at < text.size(); ++at) {
      node = child(node, bytes[at]);
      if (node < 0) break;
      const int token = nodes_[static_cast<std::size_t>(node)].token;
      if (token >= 0) longest = {token, i, at + 1};
    }
    if (longest.token >= 0) return longest;
  }
  return {-1, 0, 0};
}

bool AddedTokens::word_before(std::string_view text, std::size_t at) {
  return at > 0 && (class_at(text, previous_start(text, at)) & kWord);
}

bool AddedTokens::word_after(std::string_view text, std::size_t at) {
  return at < text.size() && (class_at(text, at) & kWord);
}

std::size_t AddedTokens::before_space(std::string_view text, std::size_t at) {
  while (at > 0) {
    const std::size_t previous = previous_start(text, at);
    if (!(class_at(text, previous) & kSpace)) break;
    at = previous;
  }
  return at;
}

std::size_t AddedTokens::after_space(std::string_view text, std::size_t at) {
  while (at < text.size() && (class_at(text, at) & kSpace)) {
    const auto* p = reinterpret_cast<const unsigned char*>(text.data()) + at;
    next_code_point(p);
    at = static_cast<std::size_t>(p - reinterpret_cast<const unsigned char*>(text.data()));
  }
  return at;
}

}  // namespace ssa
