// Expected values are from CPython 3.11's random.Random.
#include "ssa/eval/python_random.h"

#include "support/catch.h"
#include "support/error_of.h"

using ssa::eval::PythonRandom;
using Indices = std::vector<std::size_t>;

TEST_CASE("PythonRandom gives CPython's numbers for the same calls in the same order") {
  struct Case {
    std::int64_t seed;
    std::uint32_t bits[3];
    double random;
    Indices of_10, of_100, six_of_100, of_3000;
    std::uint32_t below_7;
  };
  const std::vector<Case> cases = {
      {0,
       {3626764237u, 1654615998u, 3255389356u},
       0.890243920837131,
       {0, 4, 7, 3},
       {38, 61, 45, 74, 27},
       {64, 17, 36, 96, 12, 79},
       {1026, 2181, 2888, 2465, 601, 1270, 404, 2989},
       0},
      {42,
       {2746317213u, 478163327u, 107420369u},
       0.7415504997598329,
       {3, 9, 2, 5},
       {13, 86, 94, 69, 11},
       {75, 54, 4, 3, 11, 27},
       {952, 2069, 2465, 108, 2298, 814, 2932, 2661},
       5},
      {1234,
       {4150886329u, 3342196574u, 1892932127u},
       0.11685051774599753,
       {1, 0, 9, 8},
       {98, 45, 30, 2, 3},
       {2, 44, 82, 79, 61, 78},
       {1898, 608, 373, 749, 2922, 468, 59, 2060},
       3},
      {4294967301,  // a seed of two words
       {675479763u, 2085189291u, 1213270837u},
       0.8899258643720599,
       {0, 5, 2, 6},
       {84, 63, 93, 45, 96},
       {31, 40, 93, 86, 87, 25},
       {2058, 653, 1650, 1865, 2556, 547, 1720, 2064},
       0},
  };
  for (const Case& c : cases) {
    INFO("seed " << c.seed);
    PythonRandom random(c.seed);
    for (const std::uint32_t bits : c.bits) CHECK(random.bits() == bits);
    CHECK(random.random() == c.random);
    CHECK(random.sample(10, 4) == c.of_10);
    CHECK(random.sample(100, 5) == c.of_100);
    CHECK(random.sample(100, 6) == c.six_of_100);
    CHECK(random.sample(3000, 8) == c.of_3000);
    CHECK(random.below(7) == c.below_7);
  }
}

TEST_CASE("sample switches from pool to set at the same population size as CPython") {
  // Pool up to 21 items for a sample of 5, and up to 85 for a sample of 6; above that, a set of drawn indices.
  PythonRandom random(42);
  CHECK(random.sample(21, 5) == Indices{20, 3, 0, 8, 7});
  CHECK(random.sample(22, 5) == Indices{7, 4, 3, 21, 17});
  CHECK(random.sample(85, 6) == Indices{11, 75, 54, 4, 3, 84});
  CHECK(random.sample(86, 6) == Indices{27, 29, 64, 77, 3, 71});
  CHECK(random.sample(5, 5) == Indices{1, 3, 0, 4, 2});
  CHECK(random.sample(1, 1) == Indices{0});
  CHECK(random.sample(3, 0).empty());
  ssa::test::check_error(ssa::test::error_of([&] { random.sample(3, 4); }), "a sample of 4", "at most 3");
}
