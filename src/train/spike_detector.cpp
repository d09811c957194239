#include "ssa/train/spike_detector.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "ssa/base/error.h"

namespace ssa {
namespace {

constexpr std::size_t kFewest = 10;
constexpr double kSmallestDeviation = 1e-3;  // relative to the mean

}  // namespace

std::optional<double> SlidingWindow::z_score(double value) const {
  if (!std::isfinite(value)) return std::numeric_limits<double>::infinity();
  if (values_.size() < kFewest) return std::nullopt;
  const auto count = static_cast<double>(values_.size());
  const double mean = std::accumulate(values_.begin(), values_.end(), 0.0) / count;
  double squares = 0;
  for (const double each : values_) squares += (each - mean) * (each - mean);
  const double deviation = std::max(std::sqrt(squares / count), kSmallestDeviation * std::abs(mean));
  return deviation > 0 ? (value - mean) / deviation : 0.0;
}

void SlidingWindow::add(double value) {
  if (!std::isfinite(value)) return;
  if (values_.size() >= size_) values_.erase(values_.begin());
  values_.push_back(value);
}

void SlidingWindow::set_values(std::vector<double> values) {
  if (values.size() > size_) values.erase(values.begin(), values.end() - static_cast<std::ptrdiff_t>(size_));
  values_ = std::move(values);
}

SpikeScores SpikeDetector::scores(std::optional<double> loss, double grad_norm) const {
  if (loss) return {loss_.z_score(*loss), grad_norm_.z_score(grad_norm)};
  return {.loss = {}, .grad_norm = std::isfinite(grad_norm) ? std::nullopt : grad_norm_.z_score(grad_norm)};
}

void SpikeDetector::add(std::optional<double> loss, double grad_norm) {
  if (!loss) return;
  loss_.add(*loss);
  grad_norm_.add(grad_norm);
}

nlohmann::json SpikeDetector::state() const { return {{"loss", loss_.values()}, {"grad_norm", grad_norm_.values()}}; }

void SpikeDetector::set_state(const nlohmann::json& state) {
  try {
    loss_.set_values(state.at("loss").get<std::vector<double>>());
    grad_norm_.set_values(state.at("grad_norm").get<std::vector<double>>());
  } catch (const nlohmann::json::exception&) {
    fail("spike_window: expected an object with lists of numbers loss and grad_norm");
  }
}

}  // namespace ssa
