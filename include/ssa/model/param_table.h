// The one table of parameters. Its order and offsets drive initialization, the optimizer, gradient reduction,
// checkpoints, import and export; all of them see flat buffers of `size()` elements.
//
// Layout: embedding, then each layer's matrices, then an untied LM head, then every norm. Matrices that one product
// reads together (q, k, v, g; gate, up) are adjacent, so that a fused view needs no copy; each such group starts at a
// multiple of kAlignment elements.
//
// The buffer is split into buckets (embedding, each layer's matrices, LM head, norms), each a multiple of `shards` x
// kAlignment elements, so that `shards` ranks can own equal slices of every bucket (ZeRO).
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "ssa/model/fp8_layers.h"
#include "ssa/model/model_config.h"
#include "ssa/runtime/stream.h"

namespace ssa {

struct Param {
  std::string name;  ///< of the published Hugging Face checkpoints
  Shape shape;
  std::int64_t offset;  ///< in elements of the flat buffer
  bool decay;  ///< matrices are decayed and start as Normal(0, initializer_range); norms are not decayed and start as 1
  std::int64_t count() const { return shape.count(); }
};

/// Elements [begin, end) of a flat buffer.
struct Range {
  std::int64_t begin, end;
  std::int64_t count() const { return end - begin; }
};

/// The elements of both.
inline Range common(const Range& a, const Range& b) {
  const std::int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

/// Parameters that are reduced, updated and gathered together.
struct Bucket {
  Range range;
  bool decay;  ///< as in Param; the same for every parameter of a bucket
};

class ParamTable {
 public:
  static constexpr std::int64_t kAlignment = 128;

  explicit ParamTable(const ModelConfig& config, int shards = 1);

  const std::vector<Param>& params() const { return params_; }
  const std::vector<Bucket>& buckets() const { return buckets_; }
  std::int64_t size() const { return size_; }  ///< elements of a flat buffer, padding included
  std::int64_t parameter_count() const;        ///< without padding
  /// The slice of a bucket that shard `shard` of `shards` owns.
  Range slice(const Bucket& bucket, int shard) const;
  const Param& find(const std::string& name) const;
  std::size_t bucket_of(const Param& param) const;  ///< index in buckets()

  /// The view of one parameter in a flat buffer.
  Tensor view(const Tensor& flat, const Param& param) const;

 private:
  std::vector<Param> params_;
  std::unordered_map<std::string, std::size_t> index_;  ///< of each name
  std::vector<Bucket> buckets_;
  std::int64_t size_ = 0;
  int shards_;
};

/// The parameters of one layer in a flat buffer: weights, or their gradients.
struct LayerParams {
  Tensor input_norm;           ///< [H]
  Tensor qkvg_proj;            ///< [(HQ + 2 HK) D + 3 HQ, H]: q_proj, k_proj, v_proj, g_proj
  Tensor o_proj;               ///< [H, HQ D]
  Tensor post_attention_norm;  ///< [H]
  Tensor gate_up_proj;         ///< [2 F, H]: gate_proj, up_proj
  Tensor down_proj;            ///< [H, F]
};

struct ModelParams {
  Tensor embedding;  ///< [V, H]
  std::vector<LayerParams> layers;
  Tensor final_norm;  ///< [H]
  Tensor lm_head;     ///< [V, H]; the embedding itself when tied
};

/// Indices in ParamTable::buckets().
struct BucketOrder {
  explicit BucketOrder(const ModelConfig& config);
  std::size_t embedding, first_layer, head, norms;  ///< `head` is `embedding` when tied
  std::size_t layer(std::int64_t i) const { return first_layer + static_cast<std::size_t>(i); }
  /// In the order in which a forward pass reads the weights, so that those it needs first can arrive first.
  std::vector<std::size_t> forward() const;
};

/// The elements of the weight of one product of layer i, whose parameters are adjacent.
Range range_of(const ParamTable& table, const ModelConfig& config, std::int64_t i, LinearLayer which);

/// The parts of a flat buffer, one per bucket.
std::vector<Tensor> split_by_bucket(const ParamTable& table, const Tensor& flat);

/// The views of a buffer per bucket. Buckets may share memory.
ModelParams bind_params(const ParamTable& table, const ModelConfig& config, const std::vector<Tensor>& buckets);
/// The same of a flat buffer.
ModelParams bind_params(const ParamTable& table, const ModelConfig& config, const Tensor& flat);

/// The parts of the buckets' gradient buffers that a backward pass adds to instead of overwriting them, one tensor per
/// gap between the overwritten ones: the embedding, unless it is tied and the head's product overwrites it; the norms;
/// and the padding, which the gradient norm reads too. Nothing of a bucket whose tensor is absent.
std::vector<Tensor> added_gradients(const ParamTable& table, const ModelConfig& config,
                                    const std::vector<Tensor>& buckets);

/// The parameters in the order in which a backward pass computes their gradients: final norm, an untied head, the
/// layers from last to first, the embedding.
std::vector<const Param*> backward_order(const ParamTable& table, const ModelConfig& config);

/// Initial values of elements [first, first + out.size()) of parameter `index` of the table: Normal(0,
/// initializer_range) from (seed, index, element) for matrices, 1 for norms. The same on every machine and thread
/// count.
void initialize_param(const ParamTable& table, const ModelConfig& config, std::size_t index, std::uint64_t seed,
                      std::span<float> out, std::int64_t first);

}  // namespace ssa
