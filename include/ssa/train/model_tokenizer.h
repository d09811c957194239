// The tokenizer that a model was trained with, as far as the files of the model and of its data tell. Token ids of
// another tokenizer mean another text, also where both vocabularies have the same size.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "ssa/config/config.h"
#include "ssa/data/dataset.h"

namespace ssa {

/// dataset.json of the first training dataset that has one: it names the tokenizer, which the sources of a mix share.
/// nullopt if there is none, or if the data is no longer at its path. Throws Error as read_dataset_info() does.
std::optional<DatasetInfo> training_dataset_info(const DataConfig& data);

/// The same for the data that a checkpoint was trained on; nullopt for a directory that is no checkpoint, too.
std::optional<DatasetInfo> checkpoint_dataset_info(const std::filesystem::path& model);

/// "NAME, sha256 HEX": the tokenizer that a dataset was made with.
std::string tokenizer_of(const DatasetInfo& data);

/// The model's tokenizer in the same form if it is another one than the dataset's; empty if it is the same or not
/// known. `model`: a checkpoint, whose data may still be at its path, or a Hugging Face directory, which may have
/// tokenizer files. A file that is another form of the dataset's tokenizer counts as another one, unless ssa_export
/// made it.
std::string other_tokenizer(const std::filesystem::path& model, const DatasetInfo& data);

}  // namespace ssa
