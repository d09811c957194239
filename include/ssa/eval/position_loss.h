// Loss by position: the mean loss of tokens that have so many tokens of their document before them.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/eval/dataset_loss.h"
#include "ssa/eval/forward_pass.h"

namespace ssa::eval {

/// Bucket k has the tokens with 2^k to 2^(k+1) - 1 tokens of their piece of a document before them in the sequence.
struct PositionLoss {
  struct Bucket {
    double loss = 0;  ///< nats, summed
    std::int64_t tokens = 0;
  };
  std::vector<Bucket> buckets;  ///< up to the last one that has tokens

  EvalSums total() const;
};

/// Runs every row, `rows` per batch, spread over the ranks. The result is the same on every rank.
PositionLoss position_loss(ForwardPass& pass, Comm& comm, const DatasetRows& data, std::int64_t rows);

/// [{"from": 1, "to": 1, "tokens": N, "loss": nats per token}, {"from": 2, "to": 3, ...}, ...]; loss is null without
/// tokens.
nlohmann::json to_json(const PositionLoss& losses);
/// A line per bucket for the terminal.
std::string table(const PositionLoss& losses);

}  // namespace ssa::eval
