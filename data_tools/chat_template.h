// Chat templates: how a conversation becomes one text, as the template in a tokenizer's files says.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ssa {

struct ChatMessage {
  std::string role, content;
};

struct ChatTemplate {
  std::string_view name;
  std::string_view bos, eos;                     // the bos_token and eos_token that it writes; empty: it writes none
  std::vector<std::string_view> special_tokens;  // that it writes

  /// Appends the text of a conversation, as apply_chat_template of transformers renders the published template, without
  /// a generation prompt. Returns what is wrong with the conversation ("message 2, which has ..."), or nothing.
  std::string (*render)(std::span<const ChatMessage> messages, std::string& text);
};

/// The names, separated by commas.
std::string chat_template_names();

/// Null for an unknown name.
const ChatTemplate* chat_template(std::string_view name);

/// The template in `path`: a chat_template.jinja, a tokenizer_config.json with "chat_template", or a directory with one
/// of them. It is recognized by its text, which must be a published one. Throws Error for another text, and for a
/// tokenizer_config.json (next to a chat_template.jinja too) whose bos_token or eos_token is not the template's.
const ChatTemplate& read_chat_template(const std::filesystem::path& path);

}  // namespace ssa
