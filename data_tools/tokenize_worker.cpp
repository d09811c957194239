#include "data_tools/tokenize_worker.h"

#include <xxhash.h>

#include "data_tools/json_line.h"
#include "data_tools/parquet_reader.h"
#include "ssa/base/error.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace {

/// Selects about `fraction` of the documents by the hash of their text: all copies of a document are on one side.
bool is_validation(std::string_view text, double fraction) {
  if (fraction <= 0) return false;
  return static_cast<double>(XXH3_64bits(text.data(), text.size()) >> 11) * 0x1p-53 < fraction;
}

}  // namespace

TokenizedBatch TokenizeWorker::tokenize(const RawBatch& batch) {
  TokenizedBatch out{.file = batch.file, .next = batch.next, .file_bytes = batch.file_bytes};
  out.outcomes.reserve(batch.records.size());
  for (const RawRecord& record : batch.records) {
    if (record.kind == RawRecord::rows)
      take_rows(record, batch.file, out);
    else
      take(record.kind, record.row, std::string_view(batch.bytes).substr(record.begin, record.size), out,
           record.messages_without_text);
  }
  return out;
}

void TokenizeWorker::take_rows(const RawRecord& rows, std::size_t file, TokenizedBatch& out) {
  std::uint64_t row = rows.row;
  try {
    ParquetReader reader(options_.input.files[file], options_.input.field, options_.input.field_kind);
    reader.skip_rows(rows.row - 1);
    const ParquetReader::Use use = [&](const ParquetReader::Row& one) {
      row = one.number + 1;
      take(one.good ? RawRecord::text : RawRecord::fault, one.number, one.content, out, one.messages_without_text);
    };
    while (reader.rows_done() < rows.row - 1 + rows.size && reader.next(use)) {
    }
  } catch (const Error& error) {  // the file has changed since the reading thread saw it
    take(RawRecord::fault, row, error.what(), out);
  }
}

void TokenizeWorker::take(RawRecord::Kind kind, std::uint64_t row, std::string_view content, TokenizedBatch& out,
                          std::size_t messages_without_text) {
  Outcome outcome{.kind = Outcome::fault, .row = row, .messages_without_text = messages_without_text};
  try {
    if (kind == RawRecord::fault) fail(content);
    encode(kind, content, outcome, out.ids);
  } catch (const Error& error) {
    outcome.kind = Outcome::fault;
    outcome.fault_index = out.faults.size();
    const bool keep = options_.on_error == OnError::quarantine && kind != RawRecord::fault;
    out.faults.push_back({error.what(), keep ? std::string(content) : std::string()});
  }
  outcome.ids_end = out.ids.size();
  out.outcomes.push_back(outcome);
}

void TokenizeWorker::encode(RawRecord::Kind kind, std::string_view content, Outcome& outcome, IdBuffer& ids) {
  std::string_view text = content;
  if (kind == RawRecord::json) {
    const LineReport report =
        parse_json_line(content, options_.input.field, options_.input.field_kind, text_, options_.input.chat);
    outcome.replaced = report.replaced;
    outcome.messages_without_text = report.messages_without_text;
    text = text_;
  }
  if (valid_utf8_prefix(text) != text.size()) {
    if (kind != RawRecord::json) text_ = content;
    outcome.replaced += replace_invalid_utf8(text_);
    text = text_;
  }
  outcome.text_bytes = text.size();
  outcome.kind = Outcome::empty;
  if (text.empty()) return;
  const std::size_t start = ids.size();
  try {
    encoder_.encode(text, ids, options_.special_as_text);
  } catch (...) {
    ids.truncate(start);
    throw;
  }
  // Some chat templates write the end of text themselves.
  if (!options_.input.chat || ids.size() == start || ids[ids.size() - 1] != eos_) ids.push_back(eos_);
  outcome.kind = is_validation(text, options_.validation_fraction) ? Outcome::validation : Outcome::document;
}

}  // namespace ssa
