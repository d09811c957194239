// A quick checksum of a dataset as this process sees it: tells whether two ranks see the same files.
#pragma once

#include <string>

#include "ssa/data/dataset.h"

namespace ssa {

/// XXH3-64 in 16 hexadecimal digits, over the shards in order: element type, the whole .idx (the length of every
/// document), and the tokens of at most 256 evenly spaced pieces of 4 KiB. A dataset of 1 MiB or less is read whole.
/// Unlike Dataset::fingerprint(), which takes the checksums that dataset.json states, it reads the files.
std::string sampled_checksum(const Dataset& dataset);

}  // namespace ssa
