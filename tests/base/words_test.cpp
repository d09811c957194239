// The repository is written in plain American technical English, with the field's terms. These words were used for
// things that have a better name, and must not come back.
#include <algorithm>
#include <cctype>
#include <sstream>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/repository.h"
#include "support/temp_dir.h"

using namespace ssa::test;
using ssa::read_file;

namespace {

struct Word {
  std::string found, better;
};

const std::vector<Word> kWords = {
    {"multiprocessor", "SM"},
    {"thread block", "CTA"},
    {"block barrier", "__syncthreads()"},
    {"copy engine", "TMA"},
    {"exponential unit", "MUFU"},
    {"folder", "directory"},
    {"tokens of a row", "tokens per sequence"},
    {"tokens a row", "tokens per row"},
    {"bytes a row", "bytes per row"},
    {"rows a warp", "rows per warp"},
    {"attends no", "attends to no"},
    {"attends key", "attends to key"},
    {"behind the last", "after the last"},
    {"behind every", "after every"},
    {"beside the", "next to the"},
    {"beside it", "next to it"},
    {"beside them", "next to them"},
    {"laid end to end", "concatenated"},
    {"goes on", "continues"},
    {"gone on", "continued"},
    {"gives way", "is replaced"},
    {"stands on", "depends on"},
    {"to and fro", "in alternating order"},
    {"served", "supported"},
    {"under way", "in flight"},
    {"vouches", "checks"},
    {"whoever", "the thread that"},
    {"of no concern", "ignored"},
    {"of no use", "not needed"},
    {"left to chance", "random"},
    {"neighbouring", "adjacent"},
    {"initialisation", "initialization"},
    {"synchronise", "synchronize"},
    {"optimisation", "optimization"},
    {"behaviour", "behavior"},
    {"colour", "color"},
};

bool is_letter(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; }

/// "path:line: word, better: ..." for each of kWords in `text`, as whole words in any case. A line break within a
/// comment does not hide one.
std::vector<std::string> offences(const std::string& path, const std::string& text) {
  std::string plain;
  std::vector<int> line_of;
  int line = 1;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool separator = c == ' ' || c == '\n' || c == '\t' || (c == '/' && i > 0 && (text[i - 1] == '/')) ||
                           (c == '/' && i + 1 < text.size() && text[i + 1] == '/') || c == '#';
    if (!separator || plain.empty() || plain.back() != ' ') {
      plain += separator ? ' ' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      line_of.push_back(line);
    }
    if (c == '\n') ++line;
  }
  std::vector<std::string> found;
  for (const Word& word : kWords)
    for (std::size_t at = plain.find(word.found); at != std::string::npos; at = plain.find(word.found, at + 1)) {
      const std::size_t end = at + word.found.size();
      const bool whole = (at == 0 || !is_letter(plain[at - 1])) && (end == plain.size() || !is_letter(plain[end]));
      const bool plural =
          end < plain.size() && plain[end] == 's' && (end + 1 == plain.size() || !is_letter(plain[end + 1]));
      if (whole || (plural && (at == 0 || !is_letter(plain[at - 1]))))
        found.push_back(path + ":" + std::to_string(line_of[at]) + ": " + word.found + ", better: " + word.better);
    }
  return found;
}

/// Code points of a line in UTF-8.
std::size_t columns_of(const std::string& line) {
  return static_cast<std::size_t>(
      std::count_if(line.begin(), line.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

}  // namespace

TEST_CASE("no file uses a word that has a better name") {
  std::vector<std::string> files =
      repository_files({"src", "include", "kernels", "data_tools", "tests", "scripts", "docs", "cmake"},
                       {".h", ".cpp", ".cu", ".cuh", ".py", ".sh", ".md", ".cmake", ".in", "CMakeLists.txt"});
  files.insert(files.end(), {"README.md", "CMakeLists.txt"});
  CHECK(files.size() > 100);
  for (const std::string& file : files) {
    if (file == "tests/base/words_test.cpp" || file.starts_with("tests/golden/cases/")) continue;
    for (const std::string& offence : offences(file, read_file(source_dir() / file))) FAIL_CHECK(offence);
  }
}

TEST_CASE("no source line is longer than 120 columns") {
  std::size_t lines = 0;
  for (const std::string& file :
       repository_files({"src", "include", "kernels", "data_tools", "tests"}, {".h", ".cpp", ".cu", ".cuh", ".in"})) {
    std::istringstream text(read_file(source_dir() / file));
    std::string line;
    for (int number = 1; std::getline(text, line); ++number, ++lines)
      if (const std::size_t columns = columns_of(line); columns > 120)
        FAIL_CHECK(file << ":" << number << ": " << columns << " columns, expected at most 120");
  }
  CHECK(lines > 10'000);
}

TEST_CASE("no test has a name that catch_discover_tests() would cut or Catch would take for an option") {
  std::size_t tests = 0;
  for (const std::string& file : repository_files({"tests"}, {"_test.cpp"})) {
    const std::string text = read_file(source_dir() / file), begin = "\nTEST_CASE(";
    for (std::size_t at = text.find(begin); at != std::string::npos; at = text.find(begin, at + 1)) {
      const std::size_t quote = text.find_first_not_of(" \n", at + begin.size());
      if (quote == std::string::npos || text[quote] != '"') continue;
      const std::string name = text.substr(quote + 1, text.find('"', quote + 1) - quote - 1);
      INFO(file << ": " << name);
      CHECK(name.find(';') == std::string::npos);
      CHECK_FALSE(name.starts_with("-"));
      ++tests;
    }
  }
  CHECK(tests > 400);
}

TEST_CASE("the words test reports a word with its line") {
  using Lines = std::vector<std::string>;
  CHECK(offences("a.h", "int x;\n// Two Thread Blocks.\n") == Lines{"a.h:2: thread block, better: CTA"});
  CHECK(offences("a.h", "// a thread\n  // block\n") == Lines{"a.h:1: thread block, better: CTA"});
  CHECK(offences("a.h", "properties.multiProcessorCount; observed; cudaDevAttrMultiProcessorCount").empty());
}
