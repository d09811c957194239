#include "data_tools/byte_source.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "ssa/base/error.h"
#include "ssa/base/file_kind.h"

namespace ssa {
namespace {

constexpr std::size_t kBufferBytes = 1 << 18;
constexpr int kGzipOnly = 16 + MAX_WBITS;
constexpr int kIdleMilliseconds = 100;  // after which a pipe is idle

std::optional<FileVersion> version_of(const struct stat& info) {
  if (!S_ISREG(info.st_mode)) return std::nullopt;
  return FileVersion{.bytes = static_cast<std::uint64_t>(info.st_size),
                     .seconds = info.st_mtim.tv_sec,
                     .nanoseconds = info.st_mtim.tv_nsec};
}

}  // namespace

std::string to_string(const FileVersion& version) {
  return fmt::format("{} bytes written at {:%Y-%m-%d %H:%M:%S}.{:09} UTC", version.bytes, fmt::gmtime(version.seconds),
                     version.nanoseconds);
}

std::optional<FileVersion> input_version(const std::filesystem::path& path) {
  if (path == "-") return std::nullopt;
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) {
    const std::string reason = std::generic_category().message(errno);
    fail(path.string(), ": cannot read: ", reason);
  }
  return version_of(info);
}

const char* file_type_name(std::filesystem::file_type type) {
  using Type = std::filesystem::file_type;
  switch (type) {
    case Type::regular: return "regular file";
    case Type::directory: return "directory";
    case Type::fifo: return "FIFO";
    case Type::socket: return "socket";
    case Type::block: return "block device";
    case Type::character: return "character device";
    default: return "file of an unknown type";
  }
}

/// The state of zlib or of zstd, whichever decodes the file.
struct ByteSource::Decoder {
  bool gzip;
  bool inside = false;  // a member or frame
  z_stream zlib{};
  struct Free {
    void operator()(ZSTD_DStream* stream) const { ZSTD_freeDStream(stream); }
  };
  std::unique_ptr<ZSTD_DStream, Free> zstd;

  explicit Decoder(bool is_gzip) : gzip(is_gzip) {
    if (gzip) {
      SSA_CHECK(inflateInit2(&zlib, kGzipOnly) == Z_OK, "zlib: cannot start");
    } else {
      zstd.reset(ZSTD_createDStream());
      SSA_CHECK(zstd, "zstd: cannot start");
      // For files written with `zstd --long=31`. zstd allocates only the window size in the file's header.
      const std::size_t result = ZSTD_DCtx_setParameter(zstd.get(), ZSTD_d_windowLogMax,
                                                        ZSTD_dParam_getBounds(ZSTD_d_windowLogMax).upperBound);
      SSA_CHECK(!ZSTD_isError(result), "zstd: cannot allow the longest window: ", ZSTD_getErrorName(result));
    }
  }
  ~Decoder() {
    if (gzip) inflateEnd(&zlib);
  }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
};

ByteSource::ByteSource(std::filesystem::path path, const Interrupt* interrupt)
    : path_(std::move(path)), interrupt_(interrupt), buffer_(std::make_unique<char[]>(kBufferBytes)) {
  // Without O_NONBLOCK, the open() of a FIFO would wait for a writer, and nothing could end the wait.
  fd_ = Descriptor(path_ == "-" ? ::dup(STDIN_FILENO) : ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd_.get() < 0) {
    const std::string reason = std::generic_category().message(errno);
    fail(path_.string(), ": cannot open: ", reason);
  }
  while (end_ < 4) {  // a pipe may give fewer bytes at first
    const std::size_t got = read_file(buffer_.get() + end_, kBufferBytes - end_);
    if (got == 0) break;
    end_ += got;
  }
  const std::string_view start(buffer_.get(), end_);
  const std::string suffix = path_.extension().string();
  SSA_CHECK(end_ > 0 || (suffix != ".gz" && suffix != ".zst"), path_.string(),
            ": 0 bytes, expected a compressed file (was the download cut?)");
  if (start.starts_with("\x1f\x8b"))
    decoder_ = std::make_unique<Decoder>(true);
  else if (is_zstd(start))
    decoder_ = std::make_unique<Decoder>(false);
}

ByteSource::~ByteSource() = default;

std::size_t ByteSource::read_file(char* out, std::size_t size) {
  while (true) {
    wait_for_bytes(fd_.get(), interrupt_, -1);
    const ssize_t got = ::read(fd_.get(), out, size);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) {
      const std::string reason = std::generic_category().message(errno);
      fail(path_.string(), ": cannot read: ", reason);
    }
    file_bytes_ += static_cast<std::uint64_t>(got);
    return static_cast<std::size_t>(got);
  }
}

std::optional<FileVersion> ByteSource::version() const {
  struct stat info;
  if (path_ == "-" || ::fstat(fd_.get(), &info) != 0) return std::nullopt;
  return version_of(info);
}

void ByteSource::fill() {
  begin_ = 0;
  end_ = read_file(buffer_.get(), kBufferBytes);
}

std::size_t ByteSource::read(char* out, std::size_t size) {
  if (!decoder_) {
    if (begin_ == end_) return read_file(out, size);
    const std::size_t take = std::min(size, end_ - begin_);
    std::memcpy(out, buffer_.get() + begin_, take);
    begin_ += take;
    return take;
  }
  const char* const kind = decoder_->gzip ? "gzip" : "zstd";
  while (true) {
    if (begin_ == end_) fill();
    if (begin_ == end_) {
      if (!decoder_->inside) return 0;
      fail(path_.string(), ": ", kind, " stream ends in the middle after ", file_bytes_,
           " bytes: the file is truncated");
    }
    std::size_t produced = 0;
    if (decoder_->gzip) {
      z_stream& stream = decoder_->zlib;
      if (!decoder_->inside && buffer_[begin_] == '\0') {  // zero padding after the last member (tape archives)
        ++begin_;
        continue;
      }
      decoder_->inside = true;
      stream.next_in = reinterpret_cast<Bytef*>(buffer_.get() + begin_);
      stream.avail_in = static_cast<uInt>(end_ - begin_);
      stream.next_out = reinterpret_cast<Bytef*>(out);
      const auto room = static_cast<uInt>(std::min<std::size_t>(size, 1u << 30));
      stream.avail_out = room;
      const int result = inflate(&stream, Z_NO_FLUSH);
      begin_ = end_ - stream.avail_in;
      produced = room - stream.avail_out;
      if (result == Z_STREAM_END) {
        decoder_->inside = false;
        SSA_CHECK(inflateReset2(&stream, kGzipOnly) == Z_OK, "zlib: cannot restart");
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        fail(path_.string(), ": damaged gzip stream near byte ", file_bytes_ - (end_ - begin_), ": ",
             stream.msg ? stream.msg : "unknown reason");
      }
    } else {
      decoder_->inside = true;
      ZSTD_inBuffer in{buffer_.get() + begin_, end_ - begin_, 0};
      ZSTD_outBuffer to{out, size, 0};
      const std::size_t result = ZSTD_decompressStream(decoder_->zstd.get(), &to, &in);
      begin_ += in.pos;
      produced = to.pos;
      if (ZSTD_isError(result))
        fail(path_.string(), ": damaged zstd stream near byte ", file_bytes_ - (end_ - begin_), ": ",
             ZSTD_getErrorName(result));
      decoder_->inside = result != 0;
    }
    if (produced > 0) return produced;
  }
}

bool ByteSource::read_fully(std::string& bytes, std::size_t count) { return read_into(bytes, count, false); }

bool ByteSource::read_until_idle(std::string& bytes, std::size_t count) { return read_into(bytes, count, true); }

bool ByteSource::read_into(std::string& bytes, std::size_t count, bool until_idle) {
  const std::size_t before = bytes.size();
  std::size_t filled = before;
  bool idle = false;
  bytes.resize(filled + count);
  try {
    while (filled < bytes.size()) {
      idle =
          until_idle && filled > before && begin_ == end_ && !wait_for_bytes(fd_.get(), interrupt_, kIdleMilliseconds);
      if (idle) break;
      const std::size_t got = read(bytes.data() + filled, bytes.size() - filled);
      if (got == 0) break;
      filled += got;
    }
  } catch (...) {
    bytes.resize(filled);
    throw;
  }
  const bool more = idle || filled == bytes.size();
  bytes.resize(filled);
  return more;
}

void ByteSource::skip(std::uint64_t count) {
  if (!decoder_ && end_ > 0) {  // a plain file can jump, a pipe cannot
    const std::uint64_t buffered = std::min<std::uint64_t>(count, end_ - begin_);
    begin_ += buffered;
    count -= buffered;
    const off_t size = ::lseek(fd_.get(), 0, SEEK_END);
    if (size >= 0) {
      SSA_CHECK(file_bytes_ + count <= static_cast<std::uint64_t>(size), path_.string(), ": ", size,
                " bytes, expected at least the ", file_bytes_ + count, " that were read before the interruption");
      SSA_CHECK(::lseek(fd_.get(), static_cast<off_t>(file_bytes_ + count), SEEK_SET) >= 0, path_.string(),
                ": cannot seek");
      file_bytes_ += count;
      return;
    }
  }
  char block[1 << 14];
  while (count > 0) {
    const std::size_t got = read(block, std::min<std::uint64_t>(count, sizeof block));
    SSA_CHECK(got > 0, path_.string(), ": ends ", count, " bytes before the point of the interruption");
    count -= got;
  }
}

}  // namespace ssa
