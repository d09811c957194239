// Attention of one layer by sequence length, with a constant number of tokens: the time and the ceiling share of every
// kernel, as its own benchmark measures them, and the length from which a method without full attention is faster.
#include <cmath>
#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bench/bench.h"

using namespace ssa;
using namespace ssa::bench;

namespace {

constexpr std::int64_t kShortest = 1024;  ///< shorter than every crossover at ssa-1b's shapes
constexpr const char* kGroups[] = {"causal_attention", "select_blocks", "sparse_attention", "compressed_attention"};
constexpr const char* kKernels[] = {"causal_attention_forward",
                                    "causal_attention_backward",
                                    "select_blocks",
                                    "sparse_attention_random_forward",
                                    "sparse_attention_random_backward",
                                    "sparse_attention_concentrated_forward",
                                    "sparse_attention_concentrated_backward",
                                    "window_512_attention_forward",
                                    "window_512_attention_backward",
                                    "compressed_attention_forward",
                                    "compressed_attention_backward"};

struct AtLength {
  std::int64_t tokens;
  std::map<std::string, Timing> kernels;

  double ms(const std::string& op) const { return kernels.at(op + "_forward").ms + kernels.at(op + "_backward").ms; }
  double moba_ms(const std::string& selection) const {
    return kernels.at("select_blocks").ms + ms("sparse_attention_" + selection);
  }
  double nsa_ms(const std::string& selection) const {
    return moba_ms(selection) + ms("window_512_attention") + ms("compressed_attention");
  }
};

/// The sequence length at which full / other, which grows about linearly with the length, exceeds 1. Interpolated
/// between two measured lengths, or extrapolated below the first; nullopt if it stays below 1.
template <class Ratio>
std::optional<double> crossover(const std::vector<AtLength>& lengths, const Ratio& ratio) {
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    const auto tokens = static_cast<double>(lengths[i].tokens);
    const double here = ratio(lengths[i]);
    if (here <= 1) continue;
    if (i == 0) return tokens / here;
    const auto before = static_cast<double>(lengths[i - 1].tokens);
    const double there = ratio(lengths[i - 1]);
    return before + (tokens - before) * (1 - there) / (here - there);
  }
  return std::nullopt;
}

SSA_BENCH(lengths_attention) {
  if (!bench.asked_for("lengths_attention")) return;
  std::vector<AtLength> lengths;
  for (const Shapes& shapes : by_length(bench.shapes, kShortest)) {
    AtLength& at = lengths.emplace_back(AtLength{shapes.tokens, {}});
    for (const char* group : kGroups) at.kernels.merge(bench.timings(group, shapes));
  }

  std::printf(
      "\nAttention of one layer, %lld tokens in all, by tokens per sequence: ms (share of the ceiling)\n\n| %-50s |",
      static_cast<long long>(bench.shapes.M()), "");
  for (const AtLength& at : lengths) std::printf(" %15lld |", static_cast<long long>(at.tokens));
  std::printf("\n|---|");
  for (std::size_t i = 0; i < lengths.size(); ++i) std::printf("---|");
  for (const char* kernel : kKernels) {
    std::printf("\n| %-50s |", kernel);
    for (const AtLength& at : lengths)
      std::printf(" %7.3f (%3.0f %%) |", at.kernels.at(kernel).ms, 100 * at.kernels.at(kernel).ceiling_share);
  }
  std::vector<std::string> crossovers;
  const auto compare = [&](const std::string& what, const auto& other_ms) {
    const auto ratio = [&](const AtLength& at) { return at.ms("causal_attention") / other_ms(at); };
    std::printf("\n| %-50s |", ("full / " + what).c_str());
    for (const AtLength& at : lengths) std::printf(" %15.2f |", ratio(at));
    const auto tokens = crossover(lengths, ratio);
    crossovers.push_back(what + ": " +
                         (tokens ? "faster than full attention from about " + std::to_string(std::lround(*tokens)) +
                                       " tokens per sequence"
                                 : "not faster than full attention at these lengths"));
  };
  for (const std::string selection : {"random", "concentrated"}) {
    compare("selection and sparse, " + selection, [&](const AtLength& at) { return at.moba_ms(selection); });
    compare("all branches of nsa, " + selection, [&](const AtLength& at) { return at.nsa_ms(selection); });
  }
  std::printf("\n\n");
  for (const std::string& line : crossovers) std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

}  // namespace
