// Fingerprint of a dataset: tells whether two ranks, or two starts of a run, see the same documents.
#pragma once

#include <string>

#include "ssa/data/dataset.h"

namespace ssa {

/// XXH3-64 in 16 hexadecimal digits, over the shards in order: element type, the whole .idx (the length of every
/// document), the checksums of dataset.json if there is one, and the tokens of about 256 evenly spaced pieces of 4
/// KiB. A dataset of 1 MiB or less is read whole. The paths do not count.
std::string dataset_fingerprint(const Dataset& dataset);

}  // namespace ssa
