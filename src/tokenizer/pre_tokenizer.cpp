#include "src/tokenizer/pre_tokenizer.h"

#include <string_view>
#include <utility>

#include "src/tokenizer/json_component.h"
#include "ssa/base/error.h"

namespace ssa {
using nlohmann::json;
using nlohmann::ordered_json;
namespace {

// The patterns of well-known tokenizers, as their files write them. The splitter has a hand-written loop for each.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt2PatternGrouped =
    R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

void add_regex(Splitter& splitter, const std::string& pattern, bool keep_matches, bool keep_gaps) {
  if (keep_matches) {  // the patterns above match every character, so there are no gaps to keep or drop
    if (pattern == kGpt2Pattern || pattern == kGpt2PatternGrouped) return splitter.add_gpt2();
    if (pattern == kLlama3Pattern) return splitter.add_cl100k(3);
    if (pattern == kQwen2Pattern) return splitter.add_cl100k(1);
  }
  splitter.add_regex(pattern, keep_matches, keep_gaps);
}

void add_split(Splitter& splitter, const json& component) {
  const json& pattern = component.at("pattern");
  const bool literal = pattern.contains("String");
  const std::string behavior = component.at("behavior").get<std::string>();
  const bool invert = flag(component, "invert", false);
  SSA_CHECK(behavior == "Isolated" || behavior == "Removed", "pre_tokenizer Split with behavior ", behavior,
            " is not supported, expected Isolated or Removed");
  const bool keep_matches = behavior == "Isolated" || invert;
  const bool keep_gaps = behavior == "Isolated" || !invert;
  const std::string text = pattern.at(literal ? "String" : "Regex").get<std::string>();
  if (literal)
    splitter.add_literal(text, keep_matches, keep_gaps);
  else
    add_regex(splitter, text, keep_matches, keep_gaps);
}

ordered_json byte_level_entry(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

}  // namespace

Splitter splitter_of(const json& pre_tokenizer) {
  Splitter splitter;
  bool byte_level = false;
  each_component(pre_tokenizer, "pretokenizers", [&](const json& component) {
    const std::string type = type_of(component);
    SSA_CHECK(!byte_level, "pre_tokenizer ", type, " after ByteLevel is not supported, expected ByteLevel as the last");
    if (type == "ByteLevel") {
      byte_level = true;
      if (flag(component, "add_prefix_space", true)) splitter.add_prefix_space();
      if (flag(component, "use_regex", true)) splitter.add_gpt2();
    } else if (type == "Digits") {
      splitter.add_digits(flag(component, "individual_digits", false));
    } else if (type == "Split") {
      add_split(splitter, component);
    } else {
      fail("pre_tokenizer ", type, " is not supported, expected ByteLevel, Split, Digits or a Sequence of them");
    }
  });
  SSA_CHECK(byte_level, "pre_tokenizer without ByteLevel is not supported, expected a byte-level BPE");
  return splitter;
}

void set_pre_tokenizer(Tokenizer::Parts& parts, const std::string& name) {
  parts.pre_tokenizer = name;
  if (name == "gpt2") {
    parts.splitter.add_gpt2();
  } else if (name == "smollm2") {
    parts.splitter.add_digits(true);
    parts.splitter.add_gpt2();
  } else if (name == "llama3") {
    parts.splitter.add_cl100k(3);
  } else if (name == "qwen2") {
    parts.splitter.add_cl100k(1);
  } else {
    fail_usage("--pre-tokenizer ", name, ": unknown, expected gpt2, smollm2, llama3 or qwen2");
  }
}

ordered_json pre_tokenizer_entry(const std::string& name) {
  if (name.empty()) return byte_level_entry(false);
  if (name == "gpt2") return byte_level_entry(true);
  ordered_json first;
  if (name == "smollm2")
    first = {{"type", "Digits"}, {"individual_digits", true}};
  else
    first = {{"type", "Split"},
             {"pattern", {{"Regex", name == "llama3" ? kLlama3Pattern : kQwen2Pattern}}},
             {"behavior", "Isolated"},
             {"invert", false}};
  return {{"type", "Sequence"},
          {"pretokenizers", ordered_json::array({std::move(first), byte_level_entry(name == "smollm2")})}};
}

}  // namespace ssa
