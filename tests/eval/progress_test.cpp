#include "ssa/eval/progress.h"

#include "support/catch.h"

using namespace ssa::eval;

TEST_CASE("progress: batches, tokens per second and the time left") {
  CHECK(progress_text("a, full", 3, 9, 30000, 30000, 120000, 20) == "a, full: batch 3 of 9, 1,500 tokens/s, 1:00 left");
  CHECK(progress_text("a", 1, 4, 0, 1, 4, 20) == "a: batch 1 of 4, 1:00 left");  // the tokens are not known
  CHECK(progress_text("a", 0, 4, 0, 0, 4, 20) == "a: batch 0 of 4");
  CHECK(progress_text("a", 4, 4, 999, 999, 999, 1) == "a: batch 4 of 4, 999 tokens/s, 0:00 left");
}

TEST_CASE("progress: the speed of a whole evaluation") {
  CHECK(speed_text("data/eval, full", 1234567, 2) == "data/eval, full: 1,234,567 tokens in 2.0 s, 617,284 tokens/s");
  CHECK(speed_text("a", 100, 0.25) == "a: 100 tokens in 0.2 s, 400 tokens/s");
}
