#include "data_tools/parquet_reader.h"

#include "ssa/base/error.h"

#if SSA_WITH_ARROW

#include <arrow/api.h>
#include <arrow/io/file.h>
#include <arrow/util/config.h>
#include <parquet/arrow/reader.h>
#include <parquet/file_reader.h>
#include <parquet/properties.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace ssa {
namespace {

constexpr std::int64_t kRowsAtOnce = 256;

}  // namespace

struct ParquetReader::Impl {
  std::string path, column;
  FieldKind kind;
  std::unique_ptr<parquet::arrow::FileReader> reader;
  std::vector<int> leaves;  // the columns of the file that make up `column`
  std::uint64_t rows = 0, done = 0;
  int group = 0;                // being read, or next
  std::uint64_t group_end = 0;  // its last row
  std::uint64_t to_skip = 0;    // rows of it to skip
  std::shared_ptr<arrow::RecordBatchReader> batches;

  [[noreturn]] void fail_with(const std::string& reason) const { fail(path, ": ", reason); }
  void check(const arrow::Status& status) const {
    if (!status.ok()) fail_with(status.message());
  }
  template <class T>
  T check(arrow::Result<T> result) const {
    check(result.status());
    return std::move(result).ValueUnsafe();
  }

  int groups() const { return reader->num_row_groups(); }
  std::uint64_t rows_of_group(int index) const {
    return static_cast<std::uint64_t>(reader->parquet_reader()->metadata()->RowGroup(index)->num_rows());
  }

  void open() {
    parquet::ReaderProperties properties = parquet::default_reader_properties();
    properties.enable_buffered_stream();  // page by page: memory does not grow with the row group
    properties.set_page_checksum_verification(true);
    parquet::ArrowReaderProperties arrow_properties;
    arrow_properties.set_batch_size(kRowsAtOnce);
    arrow_properties.set_pre_buffer(false);
    arrow_properties.set_use_threads(false);
    parquet::arrow::FileReaderBuilder builder;
    check(builder.Open(check(arrow::io::ReadableFile::Open(path)), properties));
    builder.properties(arrow_properties);
    check(builder.Build(&reader));
    const auto metadata = reader->parquet_reader()->metadata();
    rows = static_cast<std::uint64_t>(metadata->num_rows());
    for (int i = 0; i < metadata->num_columns(); ++i)
      if (metadata->schema()->Column(i)->path()->ToDotVector().front() == column) leaves.push_back(i);
    if (leaves.empty()) fail_with(concat("no column \"", column, "\""));
    std::shared_ptr<arrow::Schema> schema;
    check(reader->GetSchema(&schema));
    const auto field = schema->GetFieldByName(column);
    if (!field) fail_with(concat("no single column \"", column, "\""));
    check_type(*field->type());
  }

  static bool is_text(const arrow::DataType& type) {
    return type.id() == arrow::Type::STRING || type.id() == arrow::Type::LARGE_STRING ||
           type.id() == arrow::Type::BINARY || type.id() == arrow::Type::LARGE_BINARY;
  }

  static const arrow::DataType* element_of(const arrow::DataType& type) {
    if (type.id() != arrow::Type::LIST && type.id() != arrow::Type::LARGE_LIST) return nullptr;
    return static_cast<const arrow::BaseListType&>(type).value_type().get();
  }

  void check_type(const arrow::DataType& type) const {
    if (kind == FieldKind::text) {
      if (!is_text(type)) fail_with(concat("column \"", column, "\" is ", type.ToString(), ", expected string"));
      return;
    }
    const arrow::DataType* element = element_of(type);
    if (element && element->id() == arrow::Type::STRUCT) {
      const auto content = static_cast<const arrow::StructType*>(element)->GetFieldByName("content");
      if (content && is_text(*content->type())) return;
    }
    fail_with(concat("column \"", column, "\" is ", type.ToString(),
                     ", expected a list of structs with a string \"content\""));
  }

  static std::string_view text_at(const arrow::Array& array, std::int64_t i) {
    switch (array.type_id()) {
      case arrow::Type::LARGE_STRING:
      case arrow::Type::LARGE_BINARY: return static_cast<const arrow::LargeBinaryArray&>(array).GetView(i);
      default: return static_cast<const arrow::BinaryArray&>(array).GetView(i);
    }
  }

  bool document_at(const arrow::Array& array, std::int64_t i, std::string& text) const {
    text.clear();
    if (array.IsNull(i)) {
      text = concat("field \"", column, "\" is null");
      return false;
    }
    if (kind == FieldKind::text) {
      text = text_at(array, i);
      return true;
    }
    std::int64_t begin, end;
    std::shared_ptr<arrow::Array> values;
    if (array.type_id() == arrow::Type::LIST) {
      const auto& list = static_cast<const arrow::ListArray&>(array);
      begin = list.value_offset(i);
      end = list.value_offset(i + 1);
      values = list.values();
    } else {
      const auto& list = static_cast<const arrow::LargeListArray&>(array);
      begin = list.value_offset(i);
      end = list.value_offset(i + 1);
      values = list.values();
    }
    const auto contents = static_cast<const arrow::StructArray&>(*values).GetFieldByName("content");
    for (std::int64_t j = begin; j < end; ++j) {
      if (values->IsNull(j) || contents->IsNull(j)) {
        text = concat("field \"", column, "\" holds a message without \"content\"");
        return false;
      }
      if (j > begin) text += "\n\n";
      text += text_at(*contents, j);
    }
    return true;
  }

  void start_group() {
    group_end = done - to_skip;
    group_end += rows_of_group(group);
#if ARROW_VERSION_MAJOR >= 21
    batches = check(reader->GetRecordBatchReader({group}, leaves));
#else
    std::unique_ptr<arrow::RecordBatchReader> opened;
    check(reader->GetRecordBatchReader({group}, leaves, &opened));
    batches = std::move(opened);
#endif
  }

  bool next(const Use& use) {
    if (!batches && group == groups()) return false;
    std::uint64_t before = done;
    try {
      if (!batches) start_group();
      std::shared_ptr<arrow::RecordBatch> batch;
      check(batches->ReadNext(&batch));
      if (!batch) {
        if (done < group_end) fail_with(concat("row group ", group + 1, " ends early"));
        batches.reset();
        ++group;
        return true;
      }
      check(batch->ValidateFull());
      std::int64_t i =
          static_cast<std::int64_t>(std::min<std::uint64_t>(to_skip, static_cast<std::uint64_t>(batch->num_rows())));
      to_skip -= static_cast<std::uint64_t>(i);
      std::string text;
      const auto column_array = batch->column(0);
      for (; i < batch->num_rows(); ++i) {
        const bool good = document_at(*column_array, i, text);
        use(++done, good, text);
        before = done;
      }
    } catch (const std::exception& error) {  // parquet throws its own exceptions too
      const std::string reason = error.what();
      use(before + 1, false, reason.starts_with(path) ? reason : concat(path, ": ", reason));
      done = group_end;
      to_skip = 0;
      batches.reset();
      ++group;
    }
    return true;
  }
};

ParquetReader::ParquetReader(const std::filesystem::path& path, const std::string& column, FieldKind kind)
    : impl_(std::make_unique<Impl>()) {
  impl_->path = path.string();
  impl_->column = column;
  impl_->kind = kind;
  try {
    impl_->open();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    impl_->fail_with(error.what());
  }
}

ParquetReader::~ParquetReader() = default;
std::uint64_t ParquetReader::rows() const { return impl_->rows; }
std::uint64_t ParquetReader::rows_done() const { return impl_->done; }
bool ParquetReader::next(const Use& use) { return impl_->next(use); }

ParquetReader::Group ParquetReader::group_here() const {
  if (impl_->batches || impl_->to_skip > 0 || impl_->group == impl_->groups()) return {};
  Group group{.rows = impl_->rows_of_group(impl_->group), .bytes = 0};
  try {
    const auto metadata = impl_->reader->parquet_reader()->metadata()->RowGroup(impl_->group);
    for (const int leaf : impl_->leaves)
      group.bytes +=
          static_cast<std::uint64_t>(std::max<std::int64_t>(0, metadata->ColumnChunk(leaf)->total_uncompressed_size()));
  } catch (const std::exception&) {  // damage, which next() reports
    return {};
  }
  return group;
}

void ParquetReader::skip_rows(std::uint64_t count) {
  while (impl_->group < impl_->groups() && count >= impl_->rows_of_group(impl_->group)) {
    const std::uint64_t rows = impl_->rows_of_group(impl_->group++);
    impl_->done += rows;
    count -= rows;
  }
  impl_->done += count;
  impl_->to_skip = count;
}

}  // namespace ssa

#else

namespace ssa {

struct ParquetReader::Impl {};

ParquetReader::ParquetReader(const std::filesystem::path& path, const std::string&, FieldKind) {
  fail_usage("--input ", path.string(),
             ": this build does not read Parquet, expected one configured with Apache Arrow C++ or "
             "pyarrow (pip install pyarrow; cmake -DSSA_PARQUET=ON)");
}
ParquetReader::~ParquetReader() = default;
std::uint64_t ParquetReader::rows() const { return 0; }
std::uint64_t ParquetReader::rows_done() const { return 0; }
bool ParquetReader::next(const Use&) { return false; }
void ParquetReader::skip_rows(std::uint64_t) {}
ParquetReader::Group ParquetReader::group_here() const { return {}; }

}  // namespace ssa

#endif
