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

using Type = arrow::Type;

/// Whether values of this type are texts: strings or bytes, in any of Arrow's layouts.
bool is_text(const arrow::DataType& type) {
  switch (type.id()) {
    case Type::STRING:
    case Type::LARGE_STRING:
    case Type::BINARY:
    case Type::LARGE_BINARY:
#if ARROW_VERSION_MAJOR >= 15
    case Type::STRING_VIEW:
    case Type::BINARY_VIEW:
#endif
      return true;
    case Type::DICTIONARY: return is_text(*static_cast<const arrow::DictionaryType&>(type).value_type());
    default: return false;
  }
}

/// The element type of a list in any of Arrow's layouts; null for another type.
const arrow::DataType* element_of(const arrow::DataType& type) {
  switch (type.id()) {
    case Type::LIST:
    case Type::LARGE_LIST:
    case Type::FIXED_SIZE_LIST:
#if ARROW_VERSION_MAJOR >= 15
    case Type::LIST_VIEW:
    case Type::LARGE_LIST_VIEW:
#endif
      return static_cast<const arrow::BaseListType&>(type).value_type().get();
    default: return nullptr;
  }
}

/// The member of a message that holds its text: "content", or ShareGPT's "value" next to "from". Empty: none.
std::string text_member(const arrow::StructType& message) {
  if (message.GetFieldByName("content")) return "content";
  return message.GetFieldByName("from") && message.GetFieldByName("value") ? "value" : "";
}

/// Sets `text` to element i of an array for which is_text(); false if it is null.
bool text_at(const arrow::Array& array, std::int64_t i, std::string_view& text) {
  if (array.IsNull(i)) return false;
  switch (array.type_id()) {
    case Type::DICTIONARY: {
      const auto& dictionary = static_cast<const arrow::DictionaryArray&>(array);
      return text_at(*dictionary.dictionary(), dictionary.GetValueIndex(i), text);
    }
    case Type::LARGE_STRING:
    case Type::LARGE_BINARY: text = static_cast<const arrow::LargeBinaryArray&>(array).GetView(i); return true;
#if ARROW_VERSION_MAJOR >= 15
    case Type::STRING_VIEW:
    case Type::BINARY_VIEW: text = static_cast<const arrow::BinaryViewArray&>(array).GetView(i); return true;
#endif
    default: text = static_cast<const arrow::BinaryArray&>(array).GetView(i); return true;
  }
}

/// Calls use(values, begin, end) for list i of an array for whose type element_of() is not null.
template <class Use>
void with_list(const arrow::Array& array, std::int64_t i, Use&& use) {
  const auto give = [&](const auto& list) {
    const auto begin = static_cast<std::int64_t>(list.value_offset(i));
    use(*list.values(), begin, begin + static_cast<std::int64_t>(list.value_length(i)));
  };
  switch (array.type_id()) {
    case Type::LARGE_LIST: return give(static_cast<const arrow::LargeListArray&>(array));
    case Type::FIXED_SIZE_LIST: return give(static_cast<const arrow::FixedSizeListArray&>(array));
#if ARROW_VERSION_MAJOR >= 15
    case Type::LIST_VIEW: return give(static_cast<const arrow::ListViewArray&>(array));
    case Type::LARGE_LIST_VIEW: return give(static_cast<const arrow::LargeListViewArray&>(array));
#endif
    default: return give(static_cast<const arrow::ListArray&>(array));
  }
}

}  // namespace

struct ParquetReader::Impl {
  std::string path, column;
  FieldKind kind;
  std::unique_ptr<parquet::arrow::FileReader> reader;
  std::vector<std::string> members;  // of the struct in the file's column, where `column` is a.b
  std::vector<int> leaves;           // the columns of the file that make up `column`
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
    std::shared_ptr<arrow::Schema> schema;
    check(reader->GetSchema(&schema));
    const std::string top = split_column(*schema);
    for (int i = 0; i < metadata->num_columns(); ++i) {
      const std::vector<std::string> names = metadata->schema()->Column(i)->path()->ToDotVector();
      if (names.front() == top && names.size() > members.size() &&
          std::equal(members.begin(), members.end(), names.begin() + 1))
        leaves.push_back(i);
    }
    if (schema->GetAllFieldIndices(top).size() > 1) fail_with(concat("no single column \"", top, "\""));
    std::shared_ptr<arrow::DataType> type = schema->GetFieldByName(top)->type();
    for (const std::string& member : members) {
      const bool is_struct = type->id() == Type::STRUCT;
      const auto field = is_struct ? static_cast<const arrow::StructType&>(*type).GetFieldByName(member) : nullptr;
      if (!field) fail_with(concat("no column \"", column, "\": \"", top, "\" is ", type->ToString()));
      type = field->type();
    }
    check_type(*type);
  }

  /// The column of the file that holds `column`: one of that name, or, for a.b, one that is a prefix; sets `members`.
  std::string split_column(const arrow::Schema& schema) {
    std::size_t end = column.size();
    while (schema.GetAllFieldIndices(column.substr(0, end)).empty()) {
      end = end == 0 ? column.npos : column.rfind('.', end - 1);
      if (end == column.npos) fail_with(concat("no column \"", column, "\""));
    }
    for (std::size_t begin = end + 1; begin <= column.size();) {
      const std::size_t next = std::min(column.find('.', begin), column.size());
      members.push_back(column.substr(begin, next - begin));
      begin = next + 1;
    }
    return column.substr(0, end);
  }

  void check_type(const arrow::DataType& type) const {
    if (is_text(type)) return;
    if (kind == FieldKind::text) fail_with(concat("column \"", column, "\" is ", type.ToString(), ", expected string"));
    if (const arrow::DataType* const element = element_of(type)) {
      if (is_text(*element)) return;
      if (element->id() == Type::STRUCT) {
        const auto& message = static_cast<const arrow::StructType&>(*element);
        const std::string name = text_member(message);
        if (!name.empty() && is_text(*message.GetFieldByName(name)->type())) return;
      }
    }
    fail_with(concat("column \"", column, "\" is ", type.ToString(),
                     ", expected string or a list of strings or of structs with a string \"content\""));
  }

  /// The array of the field that `column` names, from the array of the top-level column that contains it.
  std::shared_ptr<arrow::Array> member_of(std::shared_ptr<arrow::Array> array) const {
    for (const std::string& member : members) {
      const int index = static_cast<const arrow::StructType&>(*array->type()).GetFieldIndex(member);
      array = check(static_cast<const arrow::StructArray&>(*array).GetFlattenedField(index));
    }
    return array;
  }

  /// Sets `text` and the number of messages that were omitted; false, with the reason in `text`, if element i is no
  /// document.
  bool document_at(const arrow::Array& array, std::int64_t i, std::string& text, std::size_t& without_text) const {
    text.clear();
    without_text = 0;
    std::string_view view;
    if (is_text(*array.type())) {
      if (text_at(array, i, view)) {
        text = view;
      } else if (kind == FieldKind::text) {
        text = concat("field \"", column, "\" is null");
        return false;
      }
      return true;
    }
    if (array.IsNull(i)) return true;
    with_list(array, i, [&](const arrow::Array& values, std::int64_t begin, std::int64_t end) {
      const bool structs = values.type_id() == Type::STRUCT;
      std::shared_ptr<arrow::Array> member;
      if (structs)
        member = static_cast<const arrow::StructArray&>(values).GetFieldByName(
            text_member(static_cast<const arrow::StructType&>(*values.type())));
      bool first = true;
      for (std::int64_t j = begin; j < end; ++j) {
        if (values.IsNull(j) || !text_at(structs ? *member : values, j, view)) {
          ++without_text;
          continue;
        }
        if (!first) text += "\n\n";
        first = false;
        text += view;
      }
    });
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
      std::size_t without_text = 0;
      const auto column_array = member_of(batch->column(0));
      for (; i < batch->num_rows(); ++i) {
        const bool good = document_at(*column_array, i, text, without_text);
        use({.number = ++done, .good = good, .content = text, .messages_without_text = without_text});
        before = done;
      }
    } catch (const std::exception& error) {  // parquet throws its own exceptions too
      const std::string reason = error.what();
      const std::string with_path = reason.starts_with(path) ? reason : concat(path, ": ", reason);
      use({.number = before + 1, .good = false, .content = with_path, .messages_without_text = 0});
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
