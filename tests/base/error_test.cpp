#include "ssa/base/error.h"

#include <filesystem>
#include <new>
#include <string>

#include "support/catch.h"
#include "support/error_of.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("error: text from outside is cut in its middle and has no control characters") {
  CHECK(shown("short") == "short");
  CHECK(shown("a\nb\x1b[31m\x7f") == "a\\x0ab\\x1b[31m\\x7f");
  const std::string cut = shown(std::string(1000, 'a') + "z");
  CHECK(cut.size() <= 300);
  CHECK(cut.starts_with("aaa"));
  CHECK(cut.ends_with("aaz"));
  CHECK(cut.find("a...a") != std::string::npos);
  // No character of UTF-8 is cut in two.
  std::string text;
  for (int i = 0; i < 500; ++i) text += "\u00e9";
  const std::string two_bytes = shown(text);
  CHECK(two_bytes.size() <= 300);
  CHECK(two_bytes.find("\u00e9...\u00e9") != std::string::npos);
}

TEST_CASE("error: fail() cuts strings and paths, but not what the program says itself") {
  const std::string hostile(4000, 'x');
  const std::string error = error_of([&] { fail(hostile, ": found ", std::filesystem::path(hostile), "\n"); });
  CHECK(error.size() < 700);
  CHECK(error.ends_with("\n"));
  CHECK(error_of([&] { fail_usage("a", std::string("b\nc")); }) == "ab\\x0ac");
}

TEST_CASE("error: the text of another library's exception is cut, and the JSON library's is not shown") {
  CHECK(foreign_message(std::runtime_error(std::string(5000, 'x'))).size() <= 300);
  CHECK(foreign_message(std::runtime_error("[json.exception.type_error.302] type must be string")) ==
        "a JSON text has a value of the wrong type or out of range");
}

TEST_CASE("error: memory that cannot be allocated is named in plain words") {
  CHECK(foreign_message(std::bad_alloc()) == "out of host memory");
}

TEST_CASE("error: a file system error of the standard library begins with the path, as other errors do") {
  const auto message_of = [](const auto& f) {
    try {
      f();
    } catch (const std::filesystem::filesystem_error& error) {
      return foreign_message(error);
    }
    return std::string("no error");
  };
  CHECK(message_of([] { std::filesystem::create_directory("/proc/nowhere/new"); }) ==
        "/proc/nowhere/new: cannot create directory: No such file or directory");
  CHECK(message_of([] { std::filesystem::directory_iterator("/proc/version"); }) ==
        "/proc/version: directory iterator cannot open directory: Not a directory");
}
