#include "data_tools/chat_template.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "data_tools/json_line.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/paths.h"
#include "support/temp_dir.h"

namespace fs = std::filesystem;
using ssa::FieldKind;
using ssa::test::error_of;
using ssa::test::TempDir;
using ssa::test::write_file;

TEST_CASE("chat template: conversations become what transformers makes of them") {
  const auto rendered = [](const char* name, const std::string& messages) {
    std::string text;
    ssa::parse_json_line("{\"text\": " + messages + "}", "text", FieldKind::conversation, text,
                         ssa::chat_template(name));
    return text;
  };
  // tests/data_tools/make_chats.py writes these lines with apply_chat_template.
  std::ifstream lines(ssa::test::source_dir() / "tests/data_tools/chats.jsonl");
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const auto chat = nlohmann::json::parse(line);
    CHECK(rendered(chat["template"].get<std::string>().c_str(), chat["messages"].dump()) == chat["text"]);
  }
  CHECK(count == 134);
  CHECK(rendered("chatml", R"([{"value":"a","from":"human"},{"from":"gpt","value":"b"}])") ==
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n");
  CHECK(rendered("chatml", "null").empty());
  CHECK(rendered("llama3", "[{\"role\":\"user\",\"content\":\"\xff \"}]").find("\n\n\xff<|eot_id|>") !=
        std::string::npos);

  const auto error = [&](const char* name, const std::string& messages) {
    return error_of([&] { rendered(name, messages); });
  };
  CHECK(error("chatml", R"([{"role":"user","content":"a"},{"content":"b"}])") ==
        "field \"text\" holds message 2 without a role, expected both for chat template chatml");
  CHECK(error("chatml", R"([{"role":"assistant","content":null}])") ==
        "field \"text\" holds message 1 without a text, expected both for chat template chatml");
  CHECK(error("llama3", R"(["a"])") ==
        "field \"text\" holds message 1 without a role, expected both for chat template llama3");
  CHECK(error("llama3", R"("a")") ==
        "field \"text\" is a string, expected a list of messages for chat template llama3");
  CHECK(error("gemma", R"([{"role":"system","content":"a"}])") ==
        "field \"text\" holds message 1, which has role \"system\", expected user and assistant in turn for chat "
        "template gemma");
  CHECK(error("qwen3", R"([{"role":"user","content":"a"},{"role":"tool","content":"b"}])") ==
        "field \"text\" holds message 2, which has role \"tool\", expected system, user or assistant for chat template "
        "qwen3");
  CHECK(error("llama3.1", R"([{"role":"ipython","content":"b"}])") ==
        "field \"text\" holds message 1, which has role \"ipython\", expected no tool messages for chat template "
        "llama3.1");
  CHECK(error("gemma3", R"([{"role":"system","content":"b"}])") ==
        "field \"text\" holds a system message alone, expected messages after it for chat template gemma3");
  const std::string system = R"({"role":"system","content":"s"},{"role":"user","content":"a"})";
  CHECK(rendered("mistral-v3", "[" + system + "]") == "<s>[INST] s\n\na[/INST]");
  for (const char* name : {"mistral-v3", "mistral-v3-tekken"}) {
    CHECK(error(name, "[" + system + R"(,{"role":"assistant","content":"b"}])") ==
          std::string("field \"text\" holds a system message, expected none unless the last message is the user's for "
                      "chat template ") +
              name);
    CHECK(error(name, "[" + system + "," + system + "]")
              .find("holds message 3, which has role \"system\", expected user "
                    "and assistant in turn after the system message") != std::string::npos);
  }
  CHECK(rendered("deepseek-v3", "[]").empty());
  CHECK(ssa::chat_template("mistral") == nullptr);
}

TEST_CASE("chat template: parts of messages that a template would leave out are refused") {
  std::string text;
  const auto error = [&](const std::string& more) {
    const std::string message = R"({"role":"assistant","content":"a",)" + more + "}";
    return error_of([&] {
      ssa::parse_json_line("{\"text\": [" + message + "]}", "text", FieldKind::conversation, text,
                           ssa::chat_template("chatml"));
    });
  };
  for (const std::string key : {"tool_calls", "function_call", "reasoning_content"}) {
    const std::string expected =
        "field \"text\" holds message 1 with \"" + key + "\", which is not supported for chat template chatml";
    for (const char* value : {"[{}]", "[ 1]", "{}", "\"a\"", "true"})
      CHECK(error("\"" + key + "\":" + value) == expected);
    for (const char* value : {"null", "[]", "[ ]", "\"\""}) CHECK(error("\"" + key + "\":" + value).empty());
  }
  CHECK(text == "<|im_start|>assistant\na<|im_end|>\n");
}

TEST_CASE("chat template: a file is recognized by its text") {
  const TempDir directory;
  const auto error = [](const fs::path& path) { return error_of([&] { ssa::read_chat_template(path); }); };
  // Qwen2's, as published.
  const std::string qwen2 =
      "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
      "You are a helpful assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
      "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
      "{{ '<|im_start|>assistant\n' }}{% endif %}";
  const auto windows = [](std::string text) {
    for (std::size_t at = 0; (at = text.find('\n', at)) != text.npos; at += 2) text.insert(at, 1, '\r');
    return text;
  };
  for (const std::string& text : {qwen2, qwen2 + "\n", windows(qwen2), windows(qwen2 + "\n")}) {
    write_file(directory / "chat_template.jinja", text);
    CHECK(ssa::read_chat_template(directory / "chat_template.jinja").name == "qwen2");
    CHECK(ssa::read_chat_template(directory.path()).name == "qwen2");
  }
  write_file(directory / "other.jinja", qwen2 + " ");
  CHECK(error(directory / "other.jinja") ==
        (directory / "other.jinja").string() +
            ": this template is not one of the published ones that are known; render the conversations with "
            "transformers' apply_chat_template and use --text-field");
  write_file(directory / "other.jinja", "{{ strftime_now('%d') }}");
  CHECK(error(directory / "other.jinja")
            .find(": this template writes the day's date, and is not one of the published "
                  "ones") != std::string::npos);

  const fs::path config = directory / "tokenizer_config.json";
  fs::remove(directory / "chat_template.jinja");
  write_file(config, nlohmann::json{{"chat_template", qwen2}, {"bos_token", nullptr}}.dump());
  CHECK(ssa::read_chat_template(config).name == "qwen2");
  CHECK(ssa::read_chat_template(directory.path()).name == "qwen2");
  const nlohmann::json two = {{{"name", "tool_use"}, {"template", "x"}}, {{"name", "default"}, {"template", qwen2}}};
  write_file(config, nlohmann::json{{"chat_template", two}}.dump());
  CHECK(ssa::read_chat_template(config).name == "qwen2");
  write_file(config, "{}");
  CHECK(error(config).find("tokenizer_config.json: chat_template is null, expected the text of a template") !=
        std::string::npos);
}

TEST_CASE("chat template: the tokens of the configuration must be those that the template writes") {
  const TempDir directory;
  // Gemma's, as published.
  const std::string gemma =
      "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
      "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
      "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
      "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
      "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}";
  const fs::path config = directory / "tokenizer_config.json";
  for (const nlohmann::json& bos : {nlohmann::json("<bos>"), nlohmann::json{{"content", "<bos>"}, {"lstrip", false}}}) {
    write_file(config, nlohmann::json{{"chat_template", gemma}, {"bos_token", bos}}.dump());
    CHECK(ssa::read_chat_template(config).name == "gemma");
  }
  write_file(directory / "chat_template.jinja", gemma);
  write_file(config, R"({"bos_token": "<s>"})");
  CHECK(error_of([&] { ssa::read_chat_template(directory.path()); }) ==
        config.string() + ": bos_token is \"<s>\", expected \"<bos>\" for chat template gemma");
  write_file(config, "{}");
  CHECK(error_of([&] { ssa::read_chat_template(directory / "chat_template.jinja"); }) ==
        config.string() + ": bos_token is null, expected \"<bos>\" for chat template gemma");
}
