// Chat templates: how a conversation becomes one text, as the template in a tokenizer's files says.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace ssa {

struct ChatTemplate {
  std::string_view name;
  std::string_view begin;                        // of the conversation
  std::string_view before, after_role, after;    // of a message: before, its role, after_role, its content, after
  bool trims = false;                            // white space around the content is left out
  bool two_roles = false;                        // user and assistant in turn, and no other
  std::string_view assistant = "assistant";      // what is written for that role
  std::vector<std::string_view> special_tokens;  // of the texts above

  /// Appends message `number`, counted from 0. Empty, or what is wrong with its role.
  std::string add(std::size_t number, const std::string& role, std::string_view content, std::string& text) const;
};

inline constexpr const char* kChatTemplateNames = "chatml, llama3 or gemma";

/// Null for an unknown name.
const ChatTemplate* chat_template(std::string_view name);

}  // namespace ssa
