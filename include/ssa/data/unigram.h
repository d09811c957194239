// The loss of a model that knows only how frequent each token is: a baseline for language models.
#pragma once

#include "ssa/data/dataset.h"

namespace ssa {

/// Entropy of the dataset's token frequencies in nats per token. Reads every token.
double unigram_entropy(const Dataset& dataset);

}  // namespace ssa
