// What lm-evaluation-harness makes of the scores of a task's documents.
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
  std::optional<double> standard_error = {};  ///< absent where the harness says N/A
  bool higher_is_better = true;
  /// Over several seeds: the sample deviation of the values, `value` and `standard_error` being means. Absent for one.
  std::optional<double> deviation = {};
};

double mean(std::span<const double> values);
/// Square root of the sum of squared distances from the mean / (n - 1); n at least 2.
double sample_deviation(std::span<const double> values);
/// sample_deviation / sqrt(n); nothing for fewer than two values.
std::optional<double> mean_stderr(std::span<const double> values);

/// exp(-mean of log-likelihoods)
double perplexity(std::span<const double> log_likelihoods);
/// Sample deviation of the perplexities of resampled documents, drawn as the harness does: `iterations` / 1000 chunks
/// of 1000 draws, chunk i from Random(i).choices. Nothing for fewer than two values.
std::optional<double> perplexity_stderr(std::span<const double> log_likelihoods, std::int64_t iterations = 100000);

/// The index of the largest value, the first of equal ones.
std::size_t arg_max(std::span<const double> values);

/// The same metrics of several runs that differ in the seed: means, and the deviation of the values.
std::vector<Metric> over_seeds(const std::vector<std::vector<Metric>>& runs);

}  // namespace ssa::eval
