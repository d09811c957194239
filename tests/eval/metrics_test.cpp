// Expected values are from lm-evaluation-harness 0.4.13.
#include "ssa/eval/metrics.h"

#include <cmath>

#include "support/catch.h"

using namespace ssa::eval;

namespace {

const std::vector<double> kAcc = {1, 0, 0, 1, 1}, kLogLikelihoods = {-1.5, -0.25, -3.0, -2.0, -0.75};

bool close(double a, double b) { return std::abs(a - b) <= 1e-12 * std::abs(b); }

}  // namespace

TEST_CASE("mean, its standard error, and perplexity") {
  CHECK(close(mean(kAcc), 0.6));
  CHECK(close(mean_stderr(kAcc).value(), 0.24494897427831783));
  CHECK_FALSE(mean_stderr(std::vector<double>{1}).has_value());
  CHECK(close(perplexity(kLogLikelihoods), 4.4816890703380645));
}

TEST_CASE("the perplexity's standard error equals the harness's bootstrap") {
  CHECK(close(perplexity_stderr(kLogLikelihoods, 2000).value(), 2.2706354655354843));
  CHECK_FALSE(perplexity_stderr(std::vector<double>{-1.0}).has_value());
}

TEST_CASE("arg_max takes the first of equal values") {
  CHECK(arg_max(std::vector<double>{-2, -1, -1}) == 1);
  CHECK(arg_max(std::vector<double>{-3}) == 0);
}

TEST_CASE("over_seeds gives means and a deviation for several seeds, and one seed unchanged") {
  const auto run = [](double value) {
    return std::vector<Metric>{{.name = "acc", .value = value, .standard_error = value / 10}};
  };
  const auto one = over_seeds({run(0.5)});
  CHECK(one[0].value == 0.5);
  CHECK_FALSE(one[0].deviation.has_value());
  const auto three = over_seeds({run(0.5), run(0.6), run(0.7)});
  CHECK(close(three[0].value, 0.6));
  CHECK(close(three[0].standard_error.value(), 0.06));
  CHECK(close(three[0].deviation.value(), 0.1));
}
