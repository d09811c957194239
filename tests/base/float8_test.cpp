#include "ssa/base/float8.h"

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.h"

using ssa::float8_e4m3;

namespace {

float8_e4m3 of_code(int code) {
  float8_e4m3 x;
  x.bits = static_cast<std::uint8_t>(code);
  return x;
}

float value_of(int code) { return static_cast<float>(of_code(code)); }

int code_of(float value) { return float8_e4m3(value).bits; }

constexpr int kLargest = 0x7e;  ///< 448; the next code is NaN

}  // namespace

TEST_CASE("e4m3: the values are those of the specification") {
  CHECK(value_of(0x00) == 0.0f);
  CHECK(value_of(0x01) == 0x1p-9f);  // smallest subnormal
  CHECK(value_of(0x07) == 0x7p-9f);  // largest subnormal
  CHECK(value_of(0x08) == 0x1p-6f);  // smallest normal
  CHECK(value_of(0x38) == 1.0f);
  CHECK(value_of(0x39) == 1.125f);
  CHECK(value_of(0x77) == 240.0f);
  CHECK(value_of(kLargest) == 448.0f);
  CHECK(value_of(0xb8) == -1.0f);
  CHECK(std::isnan(value_of(0x7f)));
  CHECK(std::isnan(value_of(0xff)));
}

TEST_CASE("e4m3: every value converts to itself, and codes ascend with the values") {
  for (int code = 0; code <= kLargest; ++code) {
    CAPTURE(code);
    CHECK(code_of(value_of(code)) == code);
    CHECK(code_of(-value_of(code)) == (code | 0x80));
    if (code > 0) CHECK(value_of(code) > value_of(code - 1));
  }
}

TEST_CASE("e4m3: conversion rounds to the nearest value, ties to the even code") {
  for (int code = 0; code < kLargest; ++code) {
    const float low = value_of(code), high = value_of(code + 1), middle = (low + high) / 2;  // exact in float
    CAPTURE(code, low, high);
    CHECK(code_of(middle) == (code % 2 == 0 ? code : code + 1));
    CHECK(code_of(-middle) == ((code % 2 == 0 ? code : code + 1) | 0x80));
    CHECK(code_of(std::nextafter(middle, low)) == code);
    CHECK(code_of(std::nextafter(middle, high)) == code + 1);
  }
}

TEST_CASE("e4m3: large values become 448, infinities and NaN become NaN") {
  for (const float large : {448.0f, 449.0f, 463.0f, 464.0f, 465.0f, 1e6f, std::numeric_limits<float>::max()}) {
    CHECK(code_of(large) == kLargest);
    CHECK(code_of(-large) == (kLargest | 0x80));
  }
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float not_finite : {infinity, -infinity, std::nanf("")})
    CHECK(std::isnan(static_cast<float>(float8_e4m3(not_finite))));
}

TEST_CASE("e4m3: values below half of the smallest become zero and keep their sign") {
  CHECK(code_of(0x1p-10f) == 0);  // a tie
  CHECK(code_of(-0x1p-10f) == 0x80);
  CHECK(code_of(std::nextafter(0x1p-10f, 1.0f)) == 1);
  CHECK(code_of(std::numeric_limits<float>::denorm_min()) == 0);
  CHECK(code_of(-0.0f) == 0x80);
}
