// Catch2 2 and 3 under one include.
#pragma once

#include <string>

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#define SSA_CATCH_CONTAINS Catch::Matchers::ContainsSubstring
#else
#include <catch2/catch.hpp>
#define SSA_CATCH_CONTAINS Catch::Matchers::Contains
#endif

namespace ssa::test {

/// CHECK_THAT(message, has("expected 3"))
inline auto has(const std::string& text) { return SSA_CATCH_CONTAINS(text); }

}  // namespace ssa::test

#undef SSA_CATCH_CONTAINS
