// Metrics over the scores of a task's documents, as lm-evaluation-harness computes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ssa::eval {

struct Metric {
  std::string name;  ///< acc, acc_norm, perplexity, word_perplexity ...
  double value = 0;
  std::optional<double> standard_error = {};  ///< absent where the harness reports N/A
  bool higher_is_better = true;
  /// Over several seeds: the sample standard deviation of the values; `value` and `standard_error` are then means.
  std::optional<double> deviation = {};
};

double mean(std::span<const double> values);
/// Sample standard deviation, sqrt(sum of (x - mean)^2 / (n - 1)); n is at least 2.
double sample_deviation(std::span<const double> values);
/// sample_deviation / sqrt(n); nullopt for fewer than two values.
std::optional<double> mean_stderr(std::span<const double> values);

/// exp(-mean of log-likelihoods)
double perplexity(std::span<const double> log_likelihoods);
/// Bootstrap: the sample standard deviation of the perplexity over resampled documents, with the harness's random
/// draws: `iterations` / 1000 chunks of 1000 resamples, chunk i from Random(i).choices. nullopt for fewer than two
/// values.
std::optional<double> perplexity_stderr(std::span<const double> log_likelihoods, std::int64_t iterations = 100000);

/// The index of the largest value; ties to the first.
std::size_t arg_max(std::span<const double> values);

/// Combines the metrics of runs that differ in the seed: means, and the standard deviation of the values.
std::vector<Metric> over_seeds(const std::vector<std::vector<Metric>>& runs);

}  // namespace ssa::eval
