#include "ssa/io/safetensors.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "ssa/base/random.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

using namespace ssa;
using ssa::test::check_error;
using ssa::test::error_of;
using ssa::test::TempDir;

namespace {

/// The file with this header and that many bytes of data, and the error of reading it.
std::string error_of_header(const std::string& header, std::size_t data_bytes, std::int64_t length = -1) {
  const TempDir dir;
  const auto path = dir.path() / "bad.safetensors";
  const std::uint64_t stated = length < 0 ? header.size() : static_cast<std::uint64_t>(length);
  FileWriter writer(path);
  writer.write(&stated, sizeof stated);
  writer.write(header);
  writer.write(std::string(data_bytes, '\0'));
  writer.finish();
  const std::string error = error_of([&] { SafetensorsReader reader(path); });
  if (!error.empty()) check_error(error, "bad.safetensors");
  return error;
}

template <class T>
std::vector<float> read_as(FileDType dtype, const std::vector<T>& stored) {
  const TempDir dir;
  const auto path = dir.path() / "x.safetensors";
  SafetensorsWriter writer(path, {{"x", {static_cast<std::int64_t>(stored.size())}, dtype}});
  writer.append_bytes("x", std::as_bytes(std::span(stored)));
  writer.finish();
  const SafetensorsReader reader(path);
  std::vector<float> values(stored.size());
  reader.read(reader.at("x"), values);
  return values;
}

}  // namespace

TEST_CASE("safetensors: tensors written in pieces read back in parts") {
  const TempDir dir;
  const auto path = dir.path() / "x.safetensors";
  std::vector<float> values(10007);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(random_normal(1, RandomPurpose::test, 0, i));
  SafetensorsWriter writer(path, {{"empty", {0, 4}, FileDType::f32},
                                  {"b \"quoted\"", {10007}, FileDType::f32},
                                  {"a", {10007, 1}, FileDType::bf16},
                                  {"scalar", {}, FileDType::f32}});
  writer.append("b \"quoted\"", std::span(values).first(5));
  writer.append("b \"quoted\"", std::span(values).subspan(5));
  writer.append("a", std::span(values).first(9000));
  writer.append("a", std::span(values).subspan(9000));
  writer.append("scalar", std::span(values).first(1));
  const FileChecksum sum = writer.finish();
  CHECK(sum == checksum_file(path));

  const SafetensorsReader reader(path);
  REQUIRE(reader.tensors().size() == 4);
  CHECK(reader.metadata().at("format") == "pt");
  CHECK(reader.at("empty").shape == Dims{0, 4});
  CHECK(reader.at("scalar").shape.empty());
  std::vector<float> got(values.size());
  reader.read(reader.at("b \"quoted\""), got);
  CHECK(got == values);
  reader.read(reader.at("a", {10007, 1}), got);
  for (std::size_t i = 0; i < got.size(); ++i) REQUIRE(got[i] == static_cast<float>(bfloat16(values[i])));
  std::vector<float> part(3);
  reader.read(reader.at("b \"quoted\""), part, 10004);
  CHECK(part == std::vector<float>(values.end() - 3, values.end()));
  check_error(error_of([&] { reader.read(reader.at("a"), part, 10005); }), "x.safetensors", "tensor a", "10008",
              "10007");
  check_error(error_of([&] { reader.at("none"); }), "x.safetensors", "tensor none is missing");
  check_error(error_of([&] { reader.at("a", {10007}); }), "x.safetensors", "tensor a is [10007, 1], expected [10007]");
}

TEST_CASE("safetensors: every dtype reads as f32") {
  CHECK(read_as<double>(FileDType::f64, {1.5, -1e-3}) == std::vector<float>{1.5f, -1e-3f});
  CHECK(read_as<std::int64_t>(FileDType::i64, {-3, 1 << 20}) == std::vector<float>{-3, 1 << 20});
  CHECK(read_as<std::int32_t>(FileDType::i32, {-3, 7}) == std::vector<float>{-3, 7});
  CHECK(read_as<std::uint8_t>(FileDType::u8, {0, 255}) == std::vector<float>{0, 255});
  CHECK(read_as<std::uint16_t>(FileDType::bf16, {0x3fc0, 0xff80}) ==
        std::vector<float>{1.5f, -std::numeric_limits<float>::infinity()});
}

TEST_CASE("safetensors: all 65536 values of f16 convert exactly") {
  std::vector<std::uint16_t> halfs(1 << 16);
  for (std::size_t i = 0; i < halfs.size(); ++i) halfs[i] = static_cast<std::uint16_t>(i);
  const std::vector<float> values = read_as(FileDType::f16, halfs);
  for (std::size_t i = 0; i < halfs.size(); ++i) {
    const int exponent = static_cast<int>(i >> 10 & 31), mantissa = static_cast<int>(i & 1023);
    double magnitude = std::ldexp(exponent ? 1024 + mantissa : mantissa, std::max(exponent, 1) - 25);
    if (exponent == 31) magnitude = mantissa ? std::nan("") : std::numeric_limits<double>::infinity();
    const float expected = static_cast<float>(i >> 15 ? -magnitude : magnitude);
    REQUIRE((std::isnan(expected) ? std::isnan(values[i]) : values[i] == expected));
    REQUIRE(std::signbit(values[i]) == static_cast<bool>(i >> 15));
  }
}

TEST_CASE("safetensors: a writer accepts only the tensors of its header, in order") {
  const TempDir dir;
  const auto path = dir.path() / "x.safetensors";
  const std::vector<float> four(4);
  const std::vector<TensorSpec> specs{{"a", {2, 2}}, {"b", {1}}};
  check_error(error_of([&] { SafetensorsWriter(path, specs).append("b", four); }), "tensor b appended, expected a");
  check_error(error_of([&] {
                SafetensorsWriter w(path, specs);
                w.append("a", four);
                w.append("b", four);
              }),
              "tensor b [1] gets 16 bytes, expected 4");
  check_error(error_of([&] { SafetensorsWriter(path, specs).finish(); }), "tensor a has 0 of 16 bytes");
  check_error(error_of([&] { SafetensorsWriter(path, {specs[0], specs[0]}); }), "tensor a given twice");
}

TEST_CASE("safetensors: a file truncated at any byte is an error") {
  const TempDir dir;
  const auto path = dir.path() / "x.safetensors";
  SafetensorsWriter writer(path, {{"a", {2}, FileDType::f32}, {"b", {3}, FileDType::bf16}});
  writer.append("a", std::vector<float>(2));
  writer.append("b", std::vector<float>(3));
  const auto bytes = writer.finish().bytes;
  const std::string content = read_file(path);
  for (std::uint64_t size = 0; size < bytes; ++size) {
    ssa::test::write_file(path, content.substr(0, size));
    check_error(error_of([&] { SafetensorsReader reader(path); }), "x.safetensors");
  }
  replace_file(path, content + "x");
  check_error(error_of([&] { SafetensorsReader reader(path); }), "x.safetensors",
              "15 bytes of data, the tensors take 14");
}

TEST_CASE("safetensors: an inconsistent header is an error that names the tensor") {
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const auto b = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"("b":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
  };
  const auto both = [&](const std::string& second) { return "{" + a + "," + second + "}"; };
  CHECK(error_of_header(both(b("\"F32\"", "[1]", "[8,12]")), 12).empty());
  CHECK(error_of_header(both(b("\"F32\"", "[1]", "[8,12]")) + "  ", 12).empty());

  check_error(error_of_header("{" + a + "}", 8, 100'000'001), "header of 100000001 bytes", "at most 100000000");
  check_error(error_of_header("{" + a + "}", 8, std::numeric_limits<std::int64_t>::max()),
              "header of 9223372036854775807");
  check_error(error_of_header("{" + a + "}", 8, 5000), "header of 5000 bytes, the file has");
  check_error(error_of_header("{" + a, 8), "not valid JSON");
  check_error(error_of_header("[1]", 0), "array, expected an object");
  check_error(error_of_header("{" + a + "," + a + "}", 8), "tensor a twice");
  check_error(error_of_header(both(b("\"F32\"", "[1]", "[4,8]")), 8), "tensor b begins at byte 4",
              "a, which ends at 8");
  check_error(error_of_header(both(b("\"F32\"", "[1]", "[12,16]")), 16), "tensor b begins at byte 12, expected 8");
  check_error(error_of_header(both(b("\"F32\"", "[2]", "[8,12]")), 12), "tensor b",
              "[8,12], expected 8 bytes for F32 [2]");
  check_error(error_of_header(both(b("\"F32\"", "[1]", "[12,8]")), 12), "tensor b", "[12,8]");
  check_error(error_of_header(both(b("\"F32\"", "[1]", "[8,12]")), 11), "tensor b", "11 bytes of data");
  check_error(error_of_header(both(b("\"F4\"", "[1]", "[8,12]")), 12), "tensor b", "\"F4\"", "BF16");
  check_error(error_of_header(both(b("7", "[1]", "[8,12]")), 12), "tensor b: dtype 7");
  check_error(error_of_header(both(b("\"F32\"", "[-1]", "[8,12]")), 12), "tensor b: shape [-1]");
  check_error(error_of_header(both(b("\"F32\"", "[1.0]", "[8,12]")), 12), "tensor b: shape [1.0]");
  check_error(error_of_header(both(b("\"F32\"", "1", "[8,12]")), 12), "tensor b: shape 1");
  check_error(error_of_header(both(b("\"F32\"", "[4294967296,4294967296]", "[8,12]")), 12), "tensor b", "too large");
  check_error(error_of_header(both(b("\"F32\"", "[1]", "[8]")), 12), "tensor b: data_offsets [8]");
  check_error(error_of_header(both(R"("b":{"dtype":"F32","shape":[1]})"), 12), "tensor b: no data_offsets");
  check_error(error_of_header(both(R"("b":3)"), 12), "tensor b: no dtype");
  check_error(error_of_header("{" + a + R"(,"__metadata__":{"step":3}})", 8), "__metadata__.step", "expected a string");
  check_error(error_of_header("{" + a + ",\"\xff\":1}", 8), "not valid JSON");
}
