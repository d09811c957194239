// The documents of ssa_eval --text: text files, JSON Lines and directories of them.
#pragma once

#include <filesystem>
#include <vector>

#include "ssa/eval/task.h"

namespace ssa::eval {

/// A .jsonl, .ndjson or .json file: the field `text` of each line. A directory: the documents of its .txt, .jsonl and
/// .ndjson files, in the order of their names; its subdirectories are not read. Any other file: one document, without a
/// byte-order mark. Error naming file and line for a document that is empty or not UTF-8, for a file that is no text,
/// for a link of a directory that has such a name and no target, and for a directory without such files.
std::vector<Document> text_documents(const std::filesystem::path& path);

}  // namespace ssa::eval
