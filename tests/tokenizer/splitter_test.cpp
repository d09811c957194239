#include "ssa/tokenizer/splitter.h"

#include <chrono>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "src/tokenizer/pre_tokenizer.h"
#include "ssa/base/error.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/paths.h"
#include "support/sanitized.h"

using nlohmann::json;
using ssa::SplitBehavior;
using ssa::test::check_error;
using ssa::test::error_of;
using ssa::test::kSanitized;

namespace {

const std::map<std::string, std::pair<const char*, SplitBehavior>> kBehaviors = {
    {"isolated", {"Isolated", SplitBehavior::isolated}},
    {"removed", {"Removed", SplitBehavior::removed}},
    {"contiguous", {"Contiguous", SplitBehavior::contiguous}},
    {"merged_with_previous", {"MergedWithPrevious", SplitBehavior::merged_with_previous}},
    {"merged_with_next", {"MergedWithNext", SplitBehavior::merged_with_next}}};

/// The bytes at which each piece begins and ends.
std::vector<std::size_t> pieces_of(const ssa::Splitter& splitter, const std::string& text) {
  std::vector<std::size_t> places;
  splitter.split(text, [&](std::string_view piece) {
    const auto begin = static_cast<std::size_t>(piece.data() - text.data());
    places.insert(places.end(), {begin, begin + piece.size()});
  });
  return places;
}

/// The splitter that a tokenizer.json with this pattern gets: an own loop for a known pattern.
ssa::Splitter chosen(const std::string& pattern, const char* behavior = "Isolated", bool invert = false) {
  const json split = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", behavior}, {"invert", invert}};
  const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  return ssa::splitter_of({{"type", "Sequence"}, {"pretokenizers", {split, bytes}}});
}

/// The texts, and for each pattern what Hugging Face tokenizers makes of them.
std::vector<json> cases() {
  std::vector<json> all;
  std::ifstream file(ssa::test::source_dir() / "tests/tokenizer/patterns.jsonl");
  for (std::string line; std::getline(file, line);) all.push_back(json::parse(line));
  return all;
}

}  // namespace

TEST_CASE("splitter: patterns cut where Hugging Face's engine cuts") {
  const std::vector<json> all = cases();
  REQUIRE(all.size() > 100);
  for (std::size_t i = 1; i < all.size(); ++i) {
    const json& one = all[i];
    const std::string pattern = one["pattern"];
    const auto& [name, behavior] = kBehaviors.at(one["behavior"].get<std::string>());
    const bool invert = one["invert"];
    ssa::Splitter splitter;
    splitter.add_regex(pattern, behavior, invert);
    const ssa::Splitter own = chosen(pattern, name, invert);
    int wrong = 0;
    for (std::size_t t = 0; t < all[0].size(); ++t) {
      const std::string text = all[0][t];
      for (const ssa::Splitter* which : {&std::as_const(splitter), &own}) {
        const auto pieces = pieces_of(*which, text);
        if (json(pieces) == one["pieces"][t] || wrong++ > 0) continue;
        UNSCOPED_INFO(json(pattern) << " " << name << (invert ? " inverted" : "")
                                    << (which == &own ? ", as chosen, " : ", in the engine, ") << all[0][t] << ": "
                                    << json(pieces) << ", expected " << one["pieces"][t]);
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("splitter: what a pattern may not hold is named with its column") {
  const auto error = [](const std::string& pattern) {
    return error_of([&] { ssa::Splitter().add_regex(pattern, SplitBehavior::isolated, false); });
  };
  check_error(error("a\\1"), "tokenizer pattern a\\1: column 3: \\1 is not supported");
  for (const char* what : {"\\G",
                           "\\K",
                           "\\R",
                           "\\X",
                           "\\k<a>",
                           "\\g<a>",
                           "\\pL",
                           "\\p{Emoji}",
                           "\\p{Alphabetic}",
                           "\\p{Upper}",
                           "\\p{Greek",
                           "(?i:ss)",
                           "(?i:\u00e9)",
                           "(?i)\\p{L}",
                           "(?i)[^\\w]",
                           "(?i:stop)",
                           "[\\w-.]",
                           "[]a]",
                           "[a",
                           "[a-\\d]",
                           "[z-a]",
                           "[a&&]",
                           "[&&a]",
                           "[]",
                           "(a",
                           "a)",
                           "*a",
                           "+",
                           "{2}",
                           "a{3,1}",
                           "a{100001}",
                           "(?=a)*",
                           "^*",
                           "(?<=a+)b",
                           "(?<=a|bc)d",
                           "(?~a)",
                           "(?(1)a)",
                           "(?a)b",
                           "(?y{g})",
                           "[[:upper:]]",
                           "\\xff",
                           "\\x{110000}",
                           "\\ud800",
                           "(?:ab){100000}",
                           "a\\"}) {
    INFO(what);
    check_error(error(what), "tokenizer pattern ", "is not supported");
  }
  check_error(error(std::string(1000, '(')), "100 levels");
  check_error(error("(?i)a\n\u00e9"), "(?i)a\\n");
}

TEST_CASE("splitter: a repeated empty group costs no time and changes nothing") {
  for (const char* pattern : {"(?:(?:(?:){100000}){100000}){100000}a", "(?:(?:(?:){90000}(?:){90000}){90000})*a"}) {
    INFO(pattern);
    ssa::Splitter splitter;
    splitter.add_regex(pattern, SplitBehavior::isolated, false);
    CHECK(pieces_of(splitter, "bab") == std::vector<std::size_t>{0, 1, 1, 2, 2, 3});
  }
  check_error(error_of([&] { ssa::Splitter().add_regex("(?:(?:|){100000}){100000}", SplitBehavior::isolated, false); }),
              "a pattern of this size is not supported");
}

TEST_CASE("splitter: a pattern that needs too many steps is an error") {
  ssa::Splitter slow;
  slow.add_regex("(?:a|a)*b", SplitBehavior::isolated, false);
  check_error(error_of([&] { pieces_of(slow, std::string(40, 'a')); }), "steps");
}

TEST_CASE("splitter: a match that needs too much memory is an error that names the pattern") {
  ssa::Splitter greedy;
  greedy.add_regex("(?:[^\n]|\n)+", SplitBehavior::isolated, false);
  const auto pieces = [&](std::size_t length) { return pieces_of(greedy, std::string(length, 'a')); };
  CHECK(pieces(1'000'000) == std::vector<std::size_t>{0, 1'000'000});
  check_error(error_of([&] { pieces(6'000'000); }),
              "tokenizer pattern (?:[^\\n]|\\n)+: more than 16777216 open alternatives");
}

TEST_CASE("splitter: the patterns of well-known tokenizers take linear time on equal characters") {
  const std::vector<json> all = cases();
  // Quadratic time, or a level of the stack per character, would show at both lengths.
  constexpr std::size_t kLength = kSanitized ? 1'000'000 : 10'000'000;
  for (const char* character : {" ", "a", "A", "1", "!", "\n", "'", "/", "\u4e2d", "\u0301", "\u01c5", "\x01"}) {
    std::string text;
    for (std::size_t i = 0; i < kLength / std::string_view(character).size(); ++i) text += character;
    for (std::size_t i = 1; i <= 8; ++i) {
      INFO(all[i]["pattern"] << " on " << json(character));
      const auto start = std::chrono::steady_clock::now();
      std::size_t covered = 0;
      chosen(all[i]["pattern"]).split(text, [&](std::string_view piece) { covered += piece.size(); });
      CHECK(covered == text.size());
      CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));
    }
  }
}
