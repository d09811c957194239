// Sparse attention of one layer by the size of the group of query heads, of the blocks and of the heads: ms, and that
// over the time that the FLOPs would take at the rate of the first row, the model's shape.
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "bench/bench.h"

using namespace ssa;
using namespace ssa::bench;

namespace {

constexpr const char* kGroups[] = {"select_blocks", "sparse_attention"};
constexpr const char* kKernels[] = {"select_blocks", "sparse_attention_random_forward",
                                    "sparse_attention_random_backward", "sparse_attention_concentrated_forward",
                                    "sparse_attention_concentrated_backward"};

struct Variant {
  std::string name;
  Shapes shapes;
  std::map<std::string, Timing> kernels;
};

SSA_BENCH(groups_attention) {
  if (!bench.asked_for("groups_attention")) return;
  std::vector<Variant> variants = {{"model", bench.shapes, {}}};
  for (const std::int64_t group : {1, 2, 4, 8, 12, 32}) {
    if (group > bench.shapes.model.num_attention_heads) continue;
    variants.push_back({"group " + std::to_string(group), bench.shapes, {}});
    Shapes& shapes = variants.back().shapes;
    shapes.model.num_key_value_heads = bench.shapes.model.num_attention_heads / group;
    shapes.model.num_attention_heads = shapes.model.num_key_value_heads * group;
  }
  for (const std::int64_t block_size : {32, 64}) {
    variants.push_back({"blocks of " + std::to_string(block_size), bench.shapes, {}});
    variants.back().shapes.model.block_size = block_size;
  }
  if (const auto wide = with_heads_of_128(bench.shapes)) variants.push_back({"heads of 128", *wide, {}});
  for (Variant& variant : variants)
    for (const char* group : kGroups) variant.kernels.merge(bench.timings(group, variant.shapes));

  std::printf("\nSparse attention of one layer: ms (over what its FLOPs take at the rate of the first row)\n\n|   |");
  for (const char* kernel : kKernels) std::printf(" %s |", kernel);
  std::printf("\n|---|---|---|---|---|---|");
  for (const Variant& variant : variants) {
    std::printf("\n| %s |", variant.name.c_str());
    for (const char* kernel : kKernels)
      std::printf(" %.3f (%.2f) |", variant.kernels.at(kernel).ms,
                  variants[0].kernels.at(kernel).ceiling_share / variant.kernels.at(kernel).ceiling_share);
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace
