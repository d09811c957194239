// README and docs name files that exist, link to pages and headings that exist, and quote messages that the programs
// print.
#include <algorithm>
#include <cctype>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/repository.h"
#include "support/temp_dir.h"

using namespace ssa::test;
using ssa::read_file;
namespace fs = std::filesystem;

namespace {

std::vector<std::string> documents() {
  std::vector<std::string> files = repository_files({"docs", "kernels"}, {".md"});
  files.push_back("README.md");
  return files;
}

/// Paths that begin with a directory of the repository's root, without the ones with a placeholder or a pattern.
std::vector<std::string> paths_in(const std::string& text) {
  const auto in_path = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           (c != '\0' && std::string("_-./*").find(c) != std::string::npos);
  };
  std::vector<std::string> paths;
  for (const char* root :
       {"src/", "include/", "kernels/", "data_tools/", "tests/", "scripts/", "docs/", "configs/", "cmake/"})
    for (std::size_t at = text.find(root); at != std::string::npos; at = text.find(root, at + 1)) {
      if (at > 0 && in_path(text[at - 1])) continue;
      std::size_t end = at;
      while (end < text.size() && in_path(text[end])) ++end;
      std::string path = text.substr(at, end - at);
      while (path.back() == '.') path.pop_back();
      if (path.find('*') == std::string::npos) paths.push_back(path);
    }
  return paths;
}

/// The anchors of a page's headings, as GitHub makes them.
std::set<std::string> anchors_in(const std::string& text) {
  std::set<std::string> anchors;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("#")) continue;
    std::string anchor;
    for (const char c : line.substr(std::min(line.find(' ') + 1, line.size()))) {
      if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_')
        anchor += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      else if (c == ' ')
        anchor += '-';
    }
    anchors.insert(anchor);
  }
  return anchors;
}

/// The targets of the links of a Markdown text.
std::vector<std::string> links_in(const std::string& text) {
  std::vector<std::string> links;
  for (std::size_t at = text.find("]("); at != std::string::npos; at = text.find("](", at + 1)) {
    const std::size_t end = text.find(')', at);
    if (end != std::string::npos) links.push_back(text.substr(at + 2, end - at - 2));
  }
  return links;
}

/// The first column of the tables with the heading "message".
std::vector<std::string> messages_in(const std::string& text) {
  std::vector<std::string> messages;
  std::istringstream lines(text);
  bool in_table = false;
  for (std::string line; std::getline(lines, line);) {
    in_table = line.starts_with("| message ") || (in_table && line.starts_with("|"));
    if (in_table && line.starts_with("| `")) messages.push_back(line.substr(3, line.find('`', 3) - 3));
  }
  return messages;
}

/// A message without its placeholders (words in capitals, "..."), divided also at punctuation, where messages are put
/// together, and at "cannot", which file errors put before their verb. The parts begin and end with a letter.
std::vector<std::string> constant_parts(const std::string& message) {
  static const std::regex between(R"(\b[A-Z]+\b|\.\.\.|[:;] |\bcannot\b)"), ends(R"(^[^A-Za-z]+|[^A-Za-z]+$)");
  std::vector<std::string> parts;
  for (std::sregex_token_iterator part(message.begin(), message.end(), between, -1), end; part != end; ++part)
    if (std::string text = std::regex_replace(part->str(), ends, ""); text.size() > 1) parts.push_back(std::move(text));
  return parts;
}

/// The string literals of a C++ file, one per line; those with only a line break or a comma between are one.
std::string literals_in(const std::string& code) {
  std::string literals, between;
  for (std::size_t i = 0; i < code.size(); ++i) {
    if (code[i] != '"') {
      between += code[i];
      continue;
    }
    if (between.find_first_not_of(" \n,") != std::string::npos) literals += '\n';
    between.clear();
    for (++i; i < code.size() && code[i] != '"'; ++i) {
      if (code[i] == '\\') ++i;
      literals += code[i];
    }
  }
  return literals;
}

}  // namespace

TEST_CASE("every path that a document names exists") {
  for (const std::string& document : documents())
    for (const std::string& path : paths_in(read_file(source_dir() / document))) {
      INFO(document << ": " << path);
      CHECK(fs::exists(source_dir() / path));
    }
}

TEST_CASE("every link of a document leads to a page and heading that exist") {
  for (const std::string& document : documents())
    for (const std::string& link : links_in(read_file(source_dir() / document))) {
      if (link.starts_with("https://")) continue;
      INFO(document << ": " << link);
      const std::string page = link.substr(0, link.find('#'));
      const fs::path target =
          page.empty() ? source_dir() / document : source_dir() / fs::path(document).parent_path() / page;
      CHECK(fs::exists(target));
      if (const std::size_t hash = link.find('#'); hash != std::string::npos && fs::exists(target))
        CHECK(anchors_in(read_file(target)).count(link.substr(hash + 1)) == 1);
    }
}

TEST_CASE("every program that a document starts is built") {
  const fs::path root = source_dir();
  for (const std::string& document : documents()) {
    const std::string text = read_file(root / document), begin = "build/bin/";
    for (std::size_t at = text.find(begin); at != std::string::npos; at = text.find(begin, at + 1)) {
      std::size_t end = at + begin.size();
      while (end < text.size() && (std::isalnum(static_cast<unsigned char>(text[end])) != 0 || text[end] == '_')) ++end;
      const std::string program = text.substr(at + begin.size(), end - at - begin.size());
      if (program.empty()) continue;  // the directory itself
      INFO(document << ": " << program);
      const std::string source = program + ".cpp";
      CHECK((program == "ssa_bench" || fs::exists(root / "src/apps" / source) ||
             fs::exists(root / "data_tools" / source)));
    }
  }
}

TEST_CASE("the README has at most 200 lines") {
  const std::string text = read_file(source_dir() / "README.md");
  CHECK(std::count(text.begin(), text.end(), '\n') <= 200);
}

TEST_CASE("every message that a document quotes is printed by a program") {
  std::string literals;
  for (const std::string& file : repository_files({"src", "include", "data_tools"}, {".h", ".cpp"}))
    literals += literals_in(read_file(source_dir() / file)) + '\n';
  for (const std::string& document : documents())
    for (const std::string& message : messages_in(read_file(source_dir() / document)))
      for (const std::string& part : constant_parts(message)) {
        INFO(document << ": " << message << ": " << part);
        // spdlog prints this one.
        CHECK((part == "Failed opening file" || part == "for writing" || literals.find(part) != std::string::npos));
      }
}

TEST_CASE("the messages test finds messages, their constant parts, and literals") {
  using Lines = std::vector<std::string>;
  CHECK(messages_in("| message | a |\n|---|---|\n| `x PATH: y` | `z` |\n\n| `no` |\n") == Lines{"x PATH: y"});
  CHECK(constant_parts("PATH: at step N, ... of N (REASON)") == Lines{"at step", "of"});
  CHECK(literals_in("fail(\"a \\\"b\\\" \",\n \"c\", d, \"e\")") == "\na \"b\" c\ne");
}
