#include "ssa/eval/metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ssa/base/error.h"
#include "ssa/eval/python_random.h"

namespace ssa::eval {

double mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double sample_deviation(std::span<const double> values) {
  const double center = mean(values);
  double squares = 0;
  for (const double value : values) squares += (value - center) * (value - center);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

std::optional<double> mean_stderr(std::span<const double> values) {
  if (values.size() < 2) return std::nullopt;
  return sample_deviation(values) / std::sqrt(static_cast<double>(values.size()));
}

double perplexity(std::span<const double> log_likelihoods) { return std::exp(-mean(log_likelihoods)); }

std::optional<double> perplexity_stderr(std::span<const double> log_likelihoods, std::int64_t iterations) {
  const std::size_t n = log_likelihoods.size();
  if (n < 2) return std::nullopt;
  const std::int64_t chunk = std::min<std::int64_t>(1000, iterations), chunks = iterations / chunk;
  std::vector<double> values(static_cast<std::size_t>(chunks * chunk));
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t c = 0; c < chunks; ++c) {
    PythonRandom random(c);
    for (std::int64_t i = 0; i < chunk; ++i) {
      double sum = 0;
      for (std::size_t k = 0; k < n; ++k)
        sum += log_likelihoods[static_cast<std::size_t>(random.random() * static_cast<double>(n))];
      values[static_cast<std::size_t>(c * chunk + i)] = std::exp(-sum / static_cast<double>(n));
    }
  }
  return sample_deviation(values);
}

std::size_t arg_max(std::span<const double> values) {
  return static_cast<std::size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

std::vector<Metric> over_seeds(const std::vector<std::vector<Metric>>& runs) {
  SSA_CHECK(!runs.empty(), "no runs to average");
  std::vector<Metric> result = runs.front();
  if (runs.size() == 1) return result;
  for (std::size_t m = 0; m < result.size(); ++m) {
    std::vector<double> values, errors;
    for (const auto& run : runs) {
      values.push_back(run.at(m).value);
      if (run[m].standard_error) errors.push_back(*run[m].standard_error);
    }
    result[m].value = mean(values);
    if (result[m].standard_error) result[m].standard_error = mean(errors);
    result[m].deviation = sample_deviation(values);
  }
  return result;
}

}  // namespace ssa::eval
