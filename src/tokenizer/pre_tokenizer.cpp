#include "src/tokenizer/pre_tokenizer.h"

#include <string_view>
#include <utility>

#include "src/tokenizer/json_component.h"
#include "src/tokenizer/regex_parser.h"
#include "ssa/base/error.h"

namespace ssa {
using nlohmann::json;
using nlohmann::ordered_json;
namespace {

constexpr std::string_view kOwnPattern = "regex:";

// The patterns of well-known tokenizers, as their files write them. The splitter has a hand-written loop for each.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt2PatternGrouped =
    R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kO200kPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// DeepSeek V3's three, one after the other.
constexpr std::string_view kDeepseekNumbers = R"(\p{N}{1,3})";
constexpr std::string_view kDeepseekHanKana = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";
constexpr std::string_view kDeepseekWords =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

void add_regex(Splitter& splitter, const std::string& text, SplitBehavior behavior, bool invert) {
  const std::string pattern = with_escapes(text);  // some files hold line ends themselves, others their escapes
  if (behavior == SplitBehavior::isolated) {
    if (pattern == kDeepseekNumbers) return splitter.add_number_groups(3);
    if (pattern == kDeepseekHanKana) return splitter.add_han_kana();
    if (pattern == kDeepseekWords) return splitter.add_deepseek();
  }
  // These patterns match every character, so there is nothing between matches to keep or drop.
  if (behavior == SplitBehavior::isolated || (behavior == SplitBehavior::removed && invert)) {
    if (pattern == kGpt2Pattern || pattern == kGpt2PatternGrouped) return splitter.add_gpt2();
    if (pattern == kLlama3Pattern) return splitter.add_cl100k(3);
    if (pattern == kQwen2Pattern) return splitter.add_cl100k(1);
    if (pattern == kO200kPattern) return splitter.add_o200k(3, true);
    if (pattern == kTekkenPattern) return splitter.add_o200k(1, false);
  }
  splitter.add_regex(text, behavior, invert);
}

SplitBehavior behavior_of(const std::string& name) {
  for (const auto& [known, behavior] :
       {std::pair{"Isolated", SplitBehavior::isolated}, std::pair{"Removed", SplitBehavior::removed},
        std::pair{"Contiguous", SplitBehavior::contiguous},
        std::pair{"MergedWithPrevious", SplitBehavior::merged_with_previous},
        std::pair{"MergedWithNext", SplitBehavior::merged_with_next}})
    if (name == known) return behavior;
  fail("pre_tokenizer Split with behavior ", name,
       " is not supported, expected Isolated, Removed, Contiguous, "
       "MergedWithPrevious or MergedWithNext");
}

void add_split(Splitter& splitter, const json& component) {
  const json& pattern = component.at("pattern");
  const bool literal = pattern.contains("String");
  const SplitBehavior behavior = behavior_of(component.at("behavior").get<std::string>());
  const bool invert = flag(component, "invert", false);
  const std::string text = pattern.at(literal ? "String" : "Regex").get<std::string>();
  if (literal)
    splitter.add_literal(text, behavior, invert);
  else
    add_regex(splitter, text, behavior, invert);
}

void add_metaspace(Splitter& splitter, const json& component) {
  const std::string mark = component.at("replacement").get<std::string>();
  std::string scheme = flag(component, "add_prefix_space", true) ? "always" : "never";  // as older files say it
  if (component.contains("prepend_scheme")) scheme = component["prepend_scheme"].get<std::string>();
  using Prepend = Splitter::Prepend;
  const Prepend prepend = scheme == "always" ? Prepend::always : scheme == "first" ? Prepend::first : Prepend::never;
  SSA_CHECK(prepend != Prepend::never || scheme == "never", "pre_tokenizer Metaspace with prepend_scheme ", scheme,
            " is not supported, expected always, first or never");
  splitter.add_metaspace(mark, prepend, flag(component, "split", true));
}

ordered_json byte_level_entry(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

}  // namespace

Splitter splitter_of(const json& pre_tokenizer, bool byte_fallback) {
  Splitter splitter;
  bool byte_level = false;
  each_component(pre_tokenizer, "pretokenizers", [&](const json& component) {
    const std::string type = type_of(component);
    SSA_CHECK(!byte_level, "pre_tokenizer ", type, " after ByteLevel is not supported, expected ByteLevel as the last");
    if (type == "ByteLevel" && !byte_fallback) {
      byte_level = true;
      if (flag(component, "add_prefix_space", true)) splitter.add_prefix_space();
      if (flag(component, "use_regex", true)) splitter.add_gpt2();
    } else if (type == "Digits") {
      splitter.add_digits(flag(component, "individual_digits", false));
    } else if (type == "Split") {
      add_split(splitter, component);
    } else if (type == "Metaspace" && byte_fallback) {
      add_metaspace(splitter, component);
    } else {
      fail("pre_tokenizer ", type, byte_fallback ? " with" : " without", " byte_fallback is not supported, expected ",
           byte_fallback ? "Metaspace, Split, Digits" : "ByteLevel, Split, Digits", " or a Sequence of them");
    }
  });
  SSA_CHECK(byte_level || byte_fallback,
            "pre_tokenizer without ByteLevel is not supported, expected a byte-level BPE or one with byte_fallback");
  return splitter;
}

void set_pre_tokenizer(Tokenizer::Parts& parts, const std::string& name) {
  parts.pre_tokenizer = name;
  parts.splitter = splitter_of(pre_tokenizer_entry(name));
  parts.nfc = name == "qwen2";
}

ordered_json pre_tokenizer_entry(const std::string& name) {
  if (name.empty()) return byte_level_entry(false);
  if (name == "gpt2") return byte_level_entry(true);
  ordered_json steps = ordered_json::array();
  const auto split = [&](std::string_view pattern) {
    steps.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  };
  if (name == "smollm2")
    steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  else if (name == "llama3")
    split(kLlama3Pattern);
  else if (name == "qwen2")
    split(kQwen2Pattern);
  else if (name == "o200k")
    split(kO200kPattern);
  else if (name == "tekken")
    split(kTekkenPattern);
  else if (name == "deepseek")
    for (const std::string_view pattern : {kDeepseekNumbers, kDeepseekHanKana, kDeepseekWords}) split(pattern);
  else if (name.starts_with(kOwnPattern) && name.size() > kOwnPattern.size())
    split(std::string_view(name).substr(kOwnPattern.size()));
  else
    fail_usage("--pre-tokenizer ", name, ": unknown, expected ", kPreTokenizerNames, ", or regex:PATTERN");
  steps.push_back(byte_level_entry(name == "smollm2"));
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

}  // namespace ssa
