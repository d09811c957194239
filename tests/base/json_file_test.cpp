#include "ssa/base/json_file.h"

#include "support/catch.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

using namespace ssa;
using ssa::test::error_of;

TEST_CASE("a JSON file is read, and its errors name the file") {
  const ssa::test::TempDir dir;
  const auto path = dir.path() / "a.json";
  replace_file(path, R"({"b": 1, "a": 2})");
  CHECK(read_json_object(path).at("b") == 1);
  CHECK(read_json_object<nlohmann::ordered_json>(path).dump() == R"({"b":1,"a":2})");
  replace_file(path, R"({"b": )");
  CHECK(error_of([&] { read_json_object(path); }) ==
        path.string() + ": not valid JSON at byte 7, expected a JSON object");
  replace_file(path, "[1]");
  CHECK(error_of([&] { read_json_object(path); }) == path.string() + ": JSON array, expected a JSON object");
  CHECK(error_of([&] { parse_json_object("", "line 2"); }) ==
        "line 2: not valid JSON at byte 1, expected a JSON object");
}

TEST_CASE("a key that an object has twice is an error in a file that only this project writes") {
  const ssa::test::TempDir dir;
  const auto path = dir.path() / "a.json";
  replace_file(path, R"({"a": {"b": 1}, "c": [{"b": 1}, {"b": 2}]})");
  CHECK(read_own_json_object(path).at("a").at("b") == 1);
  replace_file(path, R"({"a": {"b": 1, "c": 2, "b": 1}})");
  CHECK(error_of([&] { read_own_json_object(path); }) == path.string() + ": a.b: given twice, expected once");
  replace_file(path, R"({"a": 1, )");
  CHECK(error_of([&] { read_own_json_object(path); }) ==
        path.string() + ": not valid JSON at byte 10, expected a JSON object");
}
