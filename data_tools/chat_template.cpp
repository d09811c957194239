#include "data_tools/chat_template.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "src/tokenizer/sha256.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/json_file.h"
#include "ssa/tokenizer/unicode.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace fs = std::filesystem;
namespace {

using Messages = std::span<const ChatMessage>;

/// What Python's strip() removes, and so Jinja's trim.
bool is_space(std::uint32_t c) { return (UnicodeTable::get()[c] & kSpace) || (c >= 0x1c && c <= 0x1f); }

/// Invalid UTF-8 ends the trimming.
std::string_view trimmed(std::string_view text) {
  const auto code_point_at = [&](std::size_t at, std::size_t& length) {
    const std::size_t most = std::min<std::size_t>(4, text.size() - at);
    for (length = 1; length <= most; ++length)
      if (valid_utf8_prefix(text.substr(at, length)) == length) {
        const auto* p = reinterpret_cast<const unsigned char*>(text.data()) + at;
        return next_code_point(p);
      }
    return std::uint32_t{0};
  };
  std::size_t length = 0;
  while (!text.empty() && is_space(code_point_at(0, length))) text.remove_prefix(length);
  while (!text.empty()) {
    std::size_t at = text.size() - 1;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
    if (!is_space(code_point_at(at, length)) || at + length != text.size()) break;
    text.remove_suffix(length);
  }
  return text;
}

std::string_view without_first_line_ends(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of('\n'), text.size()));
}

std::string_view without_last_line_ends(std::string_view text) {
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

/// The part of `text` after the last `mark`; all of it without one.
std::string_view after_last(std::string_view text, std::string_view mark) {
  const std::size_t at = text.rfind(mark);
  return at == text.npos ? text : text.substr(at + mark.size());
}

bool has_system(Messages messages) { return messages[0].role == "system"; }

std::string wrong_role(std::size_t index, const ChatMessage& message, std::string_view expected) {
  return concat("message ", index + 1, ", which has role \"", message.role, "\", expected ", expected);
}

/// The first message whose role is not system, user or assistant.
std::string check_three_roles(Messages messages) {
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant")
      return wrong_role(i, messages[i], "system, user or assistant");
  }
  return "";
}

/// The first message from `first` on whose role is not user or assistant in turn.
std::string check_turns(Messages messages, std::size_t first) {
  for (std::size_t i = first; i < messages.size(); ++i)
    if (messages[i].role != ((i - first) % 2 == 0 ? "user" : "assistant"))
      return wrong_role(
          i, messages[i],
          first == 0 ? "user and assistant in turn" : "user and assistant in turn after the system message");
  return "";
}

void append_chatml(std::string_view role, std::string_view content, std::string& text) {
  for (const std::string_view part :
       {std::string_view("<|im_start|>"), role, std::string_view("\n"), content, std::string_view("<|im_end|>\n")})
    text += part;
}

std::string chatml(Messages messages, std::string& text) {
  for (const ChatMessage& message : messages) append_chatml(message.role, message.content, text);
  return "";
}

/// ChatML with a system message of the template's where the conversation has none.
std::string chatml_with(std::string_view system, Messages messages, std::string& text) {
  if (!has_system(messages)) append_chatml("system", system, text);
  return chatml(messages, text);
}

std::string qwen2(Messages messages, std::string& text) {
  return chatml_with("You are a helpful assistant.", messages, text);
}

std::string smollm2(Messages messages, std::string& text) {
  return chatml_with("You are a helpful AI assistant named SmolLM, trained by Hugging Face", messages, text);
}

std::string qwen2_5(Messages messages, std::string& text) {
  if (std::string wrong = check_three_roles(messages); !wrong.empty()) return wrong;
  return chatml_with("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", messages, text);
}

std::string qwen3_instruct_2507(Messages messages, std::string& text) {
  if (std::string wrong = check_three_roles(messages); !wrong.empty()) return wrong;
  return chatml(messages, text);
}

/// The last question of the user's; the last message if there is none.
std::size_t last_question(Messages messages) {
  for (std::size_t i = messages.size(); i-- > 0;) {
    const std::string& content = messages[i].content;
    if (messages[i].role == "user" &&
        !(content.starts_with("<tool_response>") && content.ends_with("</tool_response>")))
      return i;
  }
  return messages.size() - 1;
}

/// Thoughts are kept in the answers to the last question, and left out of earlier answers.
std::string qwen3(Messages messages, std::string& text) {
  if (std::string wrong = check_three_roles(messages); !wrong.empty()) return wrong;
  constexpr std::string_view kEnd = "</think>";
  const std::size_t question = last_question(messages);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const std::string_view whole = messages[i].content;
    if (messages[i].role != "assistant") {
      append_chatml(messages[i].role, whole, text);
      continue;
    }
    std::string_view thought, content = whole;
    if (const std::size_t end = whole.find(kEnd); end != whole.npos) {
      thought = without_first_line_ends(after_last(without_last_line_ends(whole.substr(0, end)), "<think>"));
      content = without_first_line_ends(after_last(whole, kEnd));
    }
    if (i > question && (i + 1 == messages.size() || !thought.empty()))
      append_chatml("assistant",
                    concat("<think>\n", without_first_line_ends(without_last_line_ends(thought)), "\n</think>\n\n",
                           without_first_line_ends(content)),
                    text);
    else
      append_chatml("assistant", content, text);
  }
  return "";
}

void append_llama3(std::string_view role, std::string_view content, std::string& text) {
  text += concat("<|start_header_id|>", role, "<|end_header_id|>\n\n", content, "<|eot_id|>");
}

std::string llama3(Messages messages, std::string& text) {
  text += "<|begin_of_text|>";
  for (const ChatMessage& message : messages) append_llama3(message.role, trimmed(message.content), text);
  return "";
}

std::string llama3_1(Messages messages, std::string& text) {
  text += "<|begin_of_text|>";
  const bool system = has_system(messages);
  append_llama3("system",
                concat("Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
                       system ? trimmed(messages[0].content) : std::string_view()),
                text);
  for (std::size_t i = system; i < messages.size(); ++i) {
    if (messages[i].role == "tool" || messages[i].role == "ipython")
      return wrong_role(i, messages[i], "no tool messages");
    append_llama3(messages[i].role, trimmed(messages[i].content), text);
  }
  return "";
}

void append_gemma(Messages turns, std::string_view before_first, std::string& text) {
  text += "<bos>";
  for (std::size_t i = 0; i < turns.size(); ++i)
    text += concat("<start_of_turn>", i % 2 == 0 ? "user" : "model", "\n", i == 0 ? before_first : std::string_view(),
                   trimmed(turns[i].content), "<end_of_turn>\n");
}

std::string gemma(Messages messages, std::string& text) {
  if (std::string wrong = check_turns(messages, 0); !wrong.empty()) return wrong;
  append_gemma(messages, "", text);
  return "";
}

/// The template would drop a system message without a message after it.
std::string gemma3(Messages messages, std::string& text) {
  if (!has_system(messages)) return gemma(messages, text);
  if (std::string wrong = check_turns(messages, 1); !wrong.empty()) return wrong;
  if (messages.size() == 1) return "a system message alone, expected messages after it";
  append_gemma(messages.subspan(1), messages[0].content + "\n\n", text);
  return "";
}

/// The system message stands in the last message, which must be the user's: the template would drop it otherwise.
std::string mistral(Messages messages, bool spaces, std::string& text) {
  const bool system = has_system(messages);
  if (std::string wrong = check_turns(messages, system); !wrong.empty()) return wrong;
  if (system && messages.size() % 2 != 0)
    return "a system message, expected none unless the last message is the user's";
  text += "<s>";
  for (std::size_t i = system; i < messages.size(); ++i) {
    const std::string_view content = messages[i].content;
    if (messages[i].role == "assistant")
      text += spaces ? concat(" ", trimmed(content), "</s>") : concat(content, "</s>");
    else
      text +=
          concat(spaces ? "[INST] " : "[INST]",
                 system && i + 1 == messages.size() ? messages[0].content + "\n\n" : std::string(), content, "[/INST]");
  }
  return "";
}

std::string mistral_v3(Messages messages, std::string& text) { return mistral(messages, true, text); }
std::string mistral_v3_tekken(Messages messages, std::string& text) { return mistral(messages, false, text); }

/// All system messages come first; thoughts are left out.
std::string deepseek_v3(Messages messages, std::string& text) {
  if (std::string wrong = check_three_roles(messages); !wrong.empty()) return wrong;
  text += "<｜begin▁of▁sentence｜>";
  bool first = true;
  for (const ChatMessage& message : messages)
    if (message.role == "system") {
      if (!first) text += "\n\n";
      first = false;
      text += message.content;
    }
  for (const ChatMessage& message : messages) {
    if (message.role == "user") text += concat("<｜User｜>", message.content);
    if (message.role == "assistant")
      text += concat("<｜Assistant｜>", after_last(message.content, "</think>"), "<｜end▁of▁sentence｜>");
  }
  return "";
}

using Tokens = std::vector<std::string_view>;
const Tokens kChatml = {"<|im_start|>", "<|im_end|>"},
             kLlama3 = {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
             kGemma = {"<bos>", "<start_of_turn>", "<end_of_turn>"}, kMistral = {"<s>", "[INST]", "[/INST]", "</s>"};

const ChatTemplate kTemplates[] = {
    {"chatml", "", "", kChatml, chatml},
    {"qwen2", "", "", kChatml, qwen2},
    {"qwen2.5", "", "", kChatml, qwen2_5},
    {"qwen3", "", "", kChatml, qwen3},
    {"qwen3-instruct-2507", "", "", kChatml, qwen3_instruct_2507},
    {"smollm2", "", "", kChatml, smollm2},
    {"llama3", "<|begin_of_text|>", "", kLlama3, llama3},
    {"llama3.1", "<|begin_of_text|>", "", kLlama3, llama3_1},
    {"gemma", "<bos>", "", kGemma, gemma},
    {"gemma3", "<bos>", "", kGemma, gemma3},
    {"mistral-v3", "<s>", "</s>", kMistral, mistral_v3},
    {"mistral-v3-tekken", "<s>", "</s>", kMistral, mistral_v3_tekken},
    {"deepseek-v3",
     "<｜begin▁of▁sentence｜>",
     "<｜end▁of▁sentence｜>",
     {"<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"},
     deepseek_v3},
};

/// SHA-256 of a published template's text, without the last line end. Single-line templates are published with line
/// ends and with \n in their strings.
struct Published {
  std::string_view sha256, name;
};

constexpr Published kPublished[] = {
    {"fcf7a096fe99a48fd9ad2b250bf9237e96e8f48bffec1c7ea4d3f225176cd40e", "chatml"},
    {"153280e3ff55d19da1398bdb3914ee2a51b80429bfaedde11d7d216c39db80f3", "chatml"},
    {"f0206845c9ebc3abb4735d44f286eb81ce99238ad2accc710c6fc60e6cb8ccc8", "qwen2"},
    {"793202280c0910ab26bc6eb57c8212c2417324c6d8c4efd0d10d59092ab3e3eb", "qwen2"},
    {"de9cde7d1b0ca0cc87459a6673e0d12fb89c070bdb24e4a30b6e4d187b226221", "smollm2"},
    {"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788", "smollm2"},
    {"55b2f4a26ac9ee719330a61a0c39d9e538b0e9322212f048326318cff4f8674a", "qwen2.5"},
    {"a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8", "qwen3"},
    {"87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5", "qwen3"},
    {"64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326", "qwen3-instruct-2507"},
    {"4f46ecd43418f216df8c26936c60e5d04bcc81db47db5d86fbe889f64212dd4c", "llama3"},
    {"ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122", "llama3"},
    {"93c0e9aa3629bbd77e68dbc0f5621f6e6b23aa8d74b932595cdb8d64684526d7", "llama3.1"},
    {"1e51d5c0fec2f83da1953fb850b7b532b7da02d0dc35f9201e671e0b9a35a123", "gemma"},
    {"ecd6ae513fe103f0eb62e8ab5bfa8d0fe45c1074fa398b089c93a7e70c15cfd6", "gemma"},
    {"8d9e3a3c114fb2053ec500184677af4f7e5f8ec2582443cd535834e68b3ade29", "gemma3"},
    {"cafb64e0e9e5fd2503054b3479593fae39cbdfd52338ce8af9bb4664a8eb05bd", "mistral-v3"},
    {"e7deee034838db2bfc7487788a3013d8a307ab69f72f3c54a85f06fd76007d4e", "mistral-v3-tekken"},
    {"563b1ce7d61d50a9b4c7439a912a1116f095b712df5b5e4d3e1116049874eb64", "deepseek-v3"},
};

std::string template_text(const fs::path& path) {
  if (path.extension() != ".json") return read_file(path);
  const auto file = read_json_object(path);
  const auto& value = file.contains("chat_template") ? file["chat_template"] : nlohmann::json();
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array())  // earlier versions of transformers wrote several templates
    for (const auto& one : value)
      if (one.is_object() && one.value("name", "") == "default" && one.contains("template") &&
          one["template"].is_string())
        return one["template"].get<std::string>();
  fail(path.string(), ": chat_template is ", value.type_name(),
       ", expected the text of a template, or a list with the template \"default\"");
}

/// As Jinja reads a file: all line ends are \n, and the last one does not count.
std::string normalized(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i)
    if (text[i] != '\r')
      out += text[i];
    else if (i + 1 == text.size() || text[i + 1] != '\n')
      out += '\n';
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

void check_token(const fs::path& path, const char* key, std::string_view expected, const ChatTemplate& chat) {
  if (expected.empty()) return;
  const auto file = read_json_object(path);
  const auto& value = file.contains(key) ? file[key] : nlohmann::json();
  const auto& token = value.is_object() && value.contains("content") ? value["content"] : value;
  SSA_CHECK(token.is_string() && token.get<std::string>() == expected, path.string(), ": ", key, " is ", token.dump(),
            ", expected \"", expected, "\" for chat template ", chat.name);
}

}  // namespace

std::string chat_template_names() {
  std::string names;
  for (const ChatTemplate& one : kTemplates) names += concat(names.empty() ? "" : ", ", one.name);
  return names;
}

const ChatTemplate* chat_template(std::string_view name) {
  for (const ChatTemplate& one : kTemplates)
    if (one.name == name) return &one;
  return nullptr;
}

const ChatTemplate& read_chat_template(const fs::path& path) {
  fs::path file = path;
  if (fs::is_directory(path)) {
    file = path / "chat_template.jinja";
    if (!fs::exists(file)) file = path / "tokenizer_config.json";
  }
  const std::string text = normalized(template_text(file));
  const std::string hash = sha256_hex(text);
  const auto* const found = std::find_if(std::begin(kPublished), std::end(kPublished),
                                         [&](const Published& one) { return one.sha256 == hash; });
  if (found == std::end(kPublished))
    fail(file.string(),
         text.find("strftime_now") != text.npos ? ": this template writes the day's date, and" : ": this template",
         " is not one of the published ones that are known; render the conversations with transformers' "
         "apply_chat_template and use --text-field");
  const ChatTemplate& chat = *chat_template(found->name);
  if (const fs::path config = file.parent_path() / "tokenizer_config.json"; fs::exists(config)) {
    check_token(config, "bos_token", chat.bos, chat);
    check_token(config, "eos_token", chat.eos, chat);
  }
  return chat;
}

}  // namespace ssa
