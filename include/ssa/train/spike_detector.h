// Finds steps whose loss or gradient norm is far above the values of the previous steps.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

namespace ssa {

/// The last values of a quantity.
class SlidingWindow {
 public:
  explicit SlidingWindow(std::int64_t size) : size_(static_cast<std::size_t>(size)) {}

  /// Standard deviations of `value` above the mean of the window; nullopt while the window has fewer than 10 values.
  /// Infinity for a value that is not finite. A standard deviation below 0.1 % of the mean counts as 0.1 %.
  std::optional<double> z_score(double value) const;
  void add(double value);

  const std::vector<double>& values() const { return values_; }  ///< oldest first
  void set_values(std::vector<double> values);

 private:
  std::size_t size_;
  std::vector<double> values_;
};

struct SpikeScores {
  std::optional<double> loss, grad_norm;

  /// Whether one of them is above `threshold`.
  bool above(double threshold) const { return (loss && *loss > threshold) || (grad_norm && *grad_norm > threshold); }
};

class SpikeDetector {
 public:
  explicit SpikeDetector(std::int64_t window) : loss_(window), grad_norm_(window) {}

  /// Of a step without a loss, because no token has a target, the gradient norm is not comparable: only one that is not
  /// finite has a score.
  SpikeScores scores(std::optional<double> loss, double grad_norm) const;
  /// Adds a step whose update was applied. Values that are not finite are ignored, and steps without a loss.
  void add(std::optional<double> loss, double grad_norm);

  /// The windows, for trainer.json: a resumed run computes the same scores.
  nlohmann::json state() const;
  /// Throws Error if `state` is not what state() returned.
  void set_state(const nlohmann::json& state);

 private:
  SlidingWindow loss_, grad_norm_;
};

}  // namespace ssa
