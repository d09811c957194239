// The documents of ssa_eval --text: text files, JSON Lines and directories of them.
#pragma once

#include <filesystem>
#include <vector>

#include "ssa/eval/task.h"

namespace ssa::eval {

/// A .jsonl file: the field `text` of each line. A directory: the documents of its .txt and .jsonl files, in the order
/// of their names; its subdirectories are not read. Any other file: one document. Error naming file and line for a
/// document that is empty or not UTF-8, and for a directory without such files.
std::vector<Document> text_documents(const std::filesystem::path& path);

}  // namespace ssa::eval
