// The block selections of the benchmarks.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "bench/attention_bench.h"
#include "support/catch.h"

using namespace ssa;

TEST_CASE("benchmarks: a concentrated selection with few slots has the token's block, the first and the newest ones") {
  for (std::int64_t slots = 1; slots <= 6; ++slots) {
    bench::Shapes shapes{.rows = 2, .tokens = 40};
    shapes.model.num_key_value_heads = 2;
    shapes.model.block_size = 4;
    shapes.model.block_counts = slots;
    const std::vector<std::int32_t> indices = make_selection(shapes, bench::Selection::concentrated);
    REQUIRE(static_cast<std::int64_t>(indices.size()) == 2 * 40 * 2 * slots);
    for (std::int64_t i = 0; i < 2 * 40 * 2; ++i) {
      const auto own = static_cast<std::int32_t>(i / 2 % 40 / 4);
      const auto first = indices.begin() + i * slots;
      const std::vector<std::int32_t> list(first, first + slots);
      INFO("slots " << slots << ", own block " << own);
      // Those that the shape has slots for, in this order; the others are drawn.
      std::vector<std::int32_t> expected;
      for (const std::int32_t block : {own, 0, own - 1, own - 2, own - 3})
        if (block >= 0 && std::find(expected.begin(), expected.end(), block) == expected.end() &&
            static_cast<std::int64_t>(expected.size()) < slots)
          expected.push_back(block);
      for (const std::int32_t block : expected) CHECK(std::find(list.begin(), list.end(), block) != list.end());
      // Ascending and different, then -1 where there are fewer blocks than slots.
      const std::int64_t count = std::min<std::int64_t>(slots, own + 1);
      for (std::int64_t k = 0; k < slots; ++k) {
        const std::int32_t block = list[static_cast<std::size_t>(k)];
        CHECK((k < count ? 0 <= block && block <= own : block == -1));
        CHECK((k == 0 || k >= count || list[static_cast<std::size_t>(k - 1)] < block));
      }
    }
  }
}
