// Sequences long enough for what the short cases of the attention ops do not reach on CUDA: many key tiles that add to
// one tile of d_q, CTAs that take several tasks, blocks whose tokens fill several segments, more blocks than one chunk.
#include <cstdlib>

#include "kernels/attention/cuda_support.h"
#include "ops/causal_attention_cases.h"
#include "ops/compressed_attention_cases.h"
#include "ops/select_blocks_cases.h"
#include "ops/sparse_attention_cases.h"
#include "support/catch.h"
#include "support/environment.h"
#include "support/error_of.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("why_unsupported names the value that the CUDA attention kernels do not support") {
  for (const std::int64_t group : {1, 2, 7, 16, 32}) CHECK(why_unsupported(64, group, 16).empty());
  CHECK(why_unsupported(128, 4, 0).empty());
  CHECK(why_unsupported(96, 4, 16).find("head_dim is 96") != std::string::npos);
  CHECK(why_unsupported(64, 17, 16).find("17 query heads") != std::string::npos);
  CHECK(why_unsupported(64, 4, 8).find("block_size is 8") != std::string::npos);
}

TEST_CASE("SSA_FORCE_GENERIC chooses the kernels on CUDA") {
  if (skip_without_gpu()) return;
  const auto name_with = [](const char* value) {
    const Environment variable{{"SSA_FORCE_GENERIC", value}};
    return Stream(DeviceKind::cuda).device_name();
  };
  CHECK(name_with("1").find(" with generic kernels") != std::string::npos);
  CHECK(name_with("0").find(" kernels") != std::string::npos);
}

TEST_CASE("dense attention over long sequences on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const CausalAttentionCase& c : std::vector<CausalAttentionCase>{
           {{1, 2100, 1, 2, 64}},
           {{2, 1111, 2, 1, 128}},
           {{1, 1500, 1, 5, 64}, 300},
           {{1, 1500, 2, 3, 128}, 300},
           {{1, 1027, 1, 16, 64}},
           {{2, 600, 2, 16, 64}},  // more query tiles than SMs: a CTA of the forward takes several
           {{1, 600, 1, 32, 128}},
           {{2, 520, 1, 16, 128}, 200},
           {{1, 2100, 1, 16, 64}, 0, {512, 528, 1040, 2096}},
           {{2, 1111, 2, 1, 128}, 0, {16, 640, 1104}},
           {{1, 1500, 1, 5, 64}, 300, {144, 160, 1024}},
           {{8, 130, 9, 16, 64}}}) {  // more (batch, key/value head) pairs than one group of the backward has
    INFO(c.to_string());
    const AttentionInputs in(c.dims, c.dims.T);
    check_cuda([&](OpRunner& run) { return run_causal_attention_forward(run, c, in); });
    OpRunner exact(Precision::exact);
    const AttentionSaved saved(c.dims, run_causal_attention_forward(exact, c, in), in.d_out);
    check_cuda([&](OpRunner& run) { return run_causal_attention_backward(run, c, in, saved, true); });
  }
}

TEST_CASE("compressed attention over long sequences on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const CompressedAttentionCase& c :
       std::vector<CompressedAttentionCase>{{{1, 4500, 1, 2, 64}, 16},
                                            {{1, 2600, 1, 1, 128}, 16},
                                            {{1, 4500, 1, 2, 128}, 16},
                                            // More tasks than SMs: several heads per task, and two kv tiles.
                                            {{8, 600, 2, 16, 64}, 16},
                                            {{12, 530, 3, 11, 64}, 16},
                                            {{8, 300, 2, 16, 128}, 16},
                                            {{8, 2100, 2, 16, 64}, 16, {512, 1024, 1984}},
                                            {{1, 4500, 1, 2, 64}, 16, {2048, 2064, 4496}},
                                            {{2, 2600, 1, 1, 128}, 32, {1024, 2592}}}) {
    INFO(c.to_string());
    const AttentionInputs in(c.dims, c.blocks());
    check_cuda([&](OpRunner& run) { return run_compressed_attention_forward(run, c, in); });
    OpRunner exact(Precision::exact);
    const AttentionSaved saved(c.dims, run_compressed_attention_forward(exact, c, in), in.d_out);
    check_cuda([&](OpRunner& run) { return run_compressed_attention_backward(run, c, in, saved, false); });
  }
}

TEST_CASE("sparse attention over long sequences on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const SparseAttentionCase& c : std::vector<SparseAttentionCase>{
           {{1, 3000, 1, 16, 64}, 16, 8, Earlier::first},
           {{1, 3000, 2, 3, 64}, 16, 40},
           {{2, 1500, 1, 32, 64}, 32, 6},
           {{1, 2000, 1, 11, 128}, 16, 8, Earlier::first},
           {{1, 1700, 1, 4, 128}, 64, 5},
           {{1, 4600, 1, 1, 64}, 64, 20},
           // More blocks than a window of the planner; with one slot, none of them in the first window.
           {{1, 8300, 1, 1, 64}, 16, 6},
           {{1, 8300, 1, 1, 64}, 16, 1},
           {{1, 8300, 1, 1, 128}, 16, 3},
           // More lists than teams of warps that run at once, one for each head much longer than the others.
           {{2, 1700, 8, 1, 64}, 16, 2, Earlier::first},
           {{2, 1500, 8, 1, 64}, 32, 2, Earlier::first},
           {{2, 1500, 8, 1, 64}, 64, 2, Earlier::first},
           {{2, 1200, 8, 1, 128}, 16, 2, Earlier::first}}) {
    INFO(c.to_string());
    const SparseAttentionInputs in(c);
    check_cuda([&](OpRunner& run) { return run_sparse_attention_forward(run, c, in); });
    OpRunner exact(Precision::exact);
    const AttentionSaved saved(c.dims, run_sparse_attention_forward(exact, c, in), in.d_out);
    check_cuda([&](OpRunner& run) { return run_sparse_attention_backward(run, c, in, saved, true); });
  }
}

namespace {

/// Where pieces of documents of the given lengths begin, in random order, each at a multiple of block_size.
PieceBegins random_pieces(std::int64_t T, std::int64_t block_size, const std::vector<std::int64_t>& lengths) {
  PieceBegins begins;
  for (std::int64_t t = 0;;) {
    const double u = random_uniform(7, RandomPurpose::test, static_cast<std::uint64_t>(T), begins.size());
    const std::int64_t length =
        lengths[static_cast<std::size_t>(u * static_cast<double>(lengths.size())) % lengths.size()];
    t += (length + block_size - 1) / block_size * block_size;
    if (t >= T) return begins;
    begins.push_back(t);
  }
}

}  // namespace

TEST_CASE("dense attention over documents of many lengths on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  const std::vector<std::int64_t> around_tiles = {1, 16, 17, 127, 128, 129};
  const PieceBegins around_2048 = {2047, 4095, 6144, 6145, 6161};
  for (const CausalAttentionCase& c : std::vector<CausalAttentionCase>{
           {{1, 3100, 1, 4, 64}, 0, random_pieces(3100, 1, around_tiles)},
           {{2, 1500, 1, 16, 64}, 512, random_pieces(1500, 16, around_tiles)},
           {{1, 1000, 2, 1, 64}, 0, random_pieces(1000, 1, around_tiles)},
           {{1, 2301, 1, 3, 128}, 0, random_pieces(2301, 1, around_tiles)},
           {{2, 1500, 1, 16, 128}, 512, random_pieces(1500, 16, around_tiles)},
           {{1, 1025, 1, 2, 128}, 40, random_pieces(1025, 1, around_tiles)},
           {{1, 6178, 1, 1, 64}, 0, around_2048},
           {{1, 6162, 1, 1, 64}, 512, around_2048},
           {{1, 6178, 1, 1, 128}, 0, around_2048},
           {{1, 1024, 1, 16, 128}, 0, {512}},
           {{17500, 3, 1, 1, 64}, 0, {1, 2}}}) {  // a CTA of the Hopper forward takes more tasks than it keeps in mind
    INFO(c.to_string());
    const AttentionInputs in(c.dims, c.dims.T);
    check_cuda([&](OpRunner& run) { return run_causal_attention_forward(run, c, in); });
    OpRunner exact(Precision::exact);
    const AttentionSaved saved(c.dims, run_causal_attention_forward(exact, c, in), in.d_out);
    check_cuda([&](OpRunner& run) { return run_causal_attention_backward(run, c, in, saved, false); });
  }
}

TEST_CASE("compressed attention over documents of many lengths on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  const std::vector<std::int64_t> around_tiles = {1, 16, 17, 127, 128, 129};
  for (const CompressedAttentionCase& c : std::vector<CompressedAttentionCase>{
           {{1, 4500, 1, 2, 64}, 16, random_pieces(4500, 16, around_tiles)},
           {{2, 2600, 1, 3, 128}, 16, random_pieces(2600, 16, around_tiles)},
           {{1, 4501, 1, 16, 64}, 32, random_pieces(4501, 32, around_tiles)},
           {{1, 6177, 1, 1, 64}, 16, {2048, 4096, 6160, 6176}},
           {{1, 6209, 1, 2, 128}, 16, {2048, 4096, 6160}},
           {{1, 4096, 1, 2, 64}, 16, {512, 1024, 3072}},
           // The last tokens see no key, and no kv tile but the last one, which has only their incomplete block.
           {{1, 2053, 1, 2, 64}, 16, {2048}},
           {{2, 2049, 1, 1, 128}, 16, {1024, 2048}},
           {{1, 4116, 1, 3, 64}, 32, {4096}},
           {{1, 8255, 1, 1, 128}, 64, {8192}},
           {{1, 8400, 1, 1, 128}, 64, {8192}},  // a piece begins with a kv tile
           // The same tokens, but in the document before.
           {{1, 2053, 1, 2, 64}, 16, {1024}},
           {{1, 4116, 1, 1, 128}, 32, {4064}}}) {
    INFO(c.to_string());
    const AttentionInputs in(c.dims, c.blocks());
    check_cuda([&](OpRunner& run) { return run_compressed_attention_forward(run, c, in); });
    OpRunner exact(Precision::exact);
    const AttentionSaved saved(c.dims, run_compressed_attention_forward(exact, c, in), in.d_out);
    for (const bool accumulate : {false, true})
      check_cuda([&](OpRunner& run) { return run_compressed_attention_backward(run, c, in, saved, accumulate); });
  }
}

TEST_CASE("causal attention on CUDA survives scores that rise by hundreds over a row's keys") {
  if (skip_without_gpu()) return;
  // The Hopper forward takes a row's maximum from its last keys, and does the task again where that was too low.
  for (const CausalAttentionCase& c : std::vector<CausalAttentionCase>{{{1, 700, 1, 16, 64}},
                                                                       {{1, 700, 2, 3, 128}},
                                                                       {{1, 700, 1, 3, 64}, 300},
                                                                       {{1, 700, 1, 8, 128}, 500},
                                                                       {{1, 700, 1, 16, 64}, 0, {304}},
                                                                       {{1, 700, 1, 8, 128}, 500, {16, 400}},
                                                                       {{2, 700, 2, 3, 128}, 0, {17, 257}}}) {
    INFO(c.to_string());
    AttentionInputs in(c.dims, c.dims.T);
    for (double& x : in.q) x *= 400;
    for (Values* values : {&in.q, &in.k, &in.v})
      for (double& x : *values) x = static_cast<float>(bfloat16(static_cast<float>(x)));
    check_cuda([&](OpRunner& run) { return run_causal_attention_forward(run, c, in); });
  }
}

namespace {

void check_selection(const SelectBlocksCase& c) {
  INFO(c.to_string());
  SelectBlocksInputs in(c);
  for (Values* values : {&in.q, &in.k_mean})
    for (double& x : *values) x = static_cast<float>(bfloat16(static_cast<float>(x)));
  OpRunner cuda(Precision::cuda), again(Precision::cuda), exact(Precision::exact);
  const std::vector<std::int32_t> got = run_select_blocks(cuda, c, in), want = run_select_blocks(exact, c, in);
  CHECK(got == run_select_blocks(again, c, in));
  if (c.ties == Ties::all) {
    CHECK(got == want);
    return;
  }
  // Near ties may be decided differently in f32. With random scores, less than 1 % of tokens have gaps below 1e-5.
  std::int64_t different = 0;
  for (std::size_t i = 0; i < got.size(); i += static_cast<std::size_t>(c.slots()))
    different += !std::equal(got.begin() + static_cast<std::ptrdiff_t>(i),
                             got.begin() + static_cast<std::ptrdiff_t>(i) + c.slots(),
                             want.begin() + static_cast<std::ptrdiff_t>(i));
  CHECK(different <= c.dims.T / 100);
}

}  // namespace

TEST_CASE("select_blocks over several chunks on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const SelectBlocksCase& c : std::vector<SelectBlocksCase>{
           {{1, 8777, 1, 9, 64}, 16, 16, BlockSelection::reference},
           {{1, 8500, 1, 16, 64}, 16, 16},
           {{1, 8500, 1, 16, 64}, 16, 16, BlockSelection::exact, Ties::none, 14.0},
           {{1, 8500, 1, 7, 64}, 16, 16, BlockSelection::exact, Ties::all},
           {{1, 8230, 1, 32, 64}, 16, 16},
           {{1, 16384, 1, 2, 64}, 16, 16, BlockSelection::reference, Ties::all},
           {{1, 24000, 1, 1, 64}, 16, 16, BlockSelection::exact, Ties::none, 14.0},
           {{1, 24000, 1, 3, 64}, 16, 16, BlockSelection::exact, Ties::all},
           {{1, 32768, 1, 1, 64}, 16, 16},
           {{1, 16500, 1, 5, 64}, 16, 16, BlockSelection::reference},
           {{1, 16500, 1, 9, 64}, 16, 16},
           {{1, 16901, 2, 3, 64}, 16, 16, BlockSelection::exact, Ties::none, 14.0},
           {{1, 17501, 1, 2, 64}, 16, 33, BlockSelection::reference, Ties::all},
           {{1, 33000, 1, 1, 64}, 16, 16, BlockSelection::reference},
           {{1, 10016, 1, 9, 64}, 16, 16, BlockSelection::exact, Ties::none, 1.5, {8192, 8208, 8224, 8256, 9008}},
           {{1, 26000, 1, 1, 64}, 16, 16, BlockSelection::exact, Ties::none, 1.5, {32, 1040, 25408, 25456}},
           {{1, 17000, 1, 1, 64}, 16, 16},
           {{1, 17000, 1, 1, 64}, 16, 16, BlockSelection::reference},
           {{1, 9000, 1, 3, 128}, 16, 70},
           {{1, 9000, 1, 2, 64}, 16, 16, BlockSelection::exact, Ties::all},
           {{1, 9000, 1, 2, 64}, 16, 16, BlockSelection::reference, Ties::all}})
    check_selection(c);
}

TEST_CASE("select_blocks of 600 blocks on CUDA agrees with the CPU, or says how much shared memory it needs") {
  if (skip_without_gpu()) return;
  const SelectBlocksCase c{{1, 16384, 1, 1, 64}, 16, 600};
  const char* limit = std::getenv("SSA_SHARED_MEMORY_KB");
  if (!limit || std::atoi(limit) * 1024 >= 126592) return check_selection(c);
  OpRunner cuda(Precision::cuda);
  check_error(error_of([&] { run_select_blocks(cuda, c, SelectBlocksInputs(c)); }),
              "select_blocks: 126592 bytes of shared memory per CTA needed, the GPU has ");
}
