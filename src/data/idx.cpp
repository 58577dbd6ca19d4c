#include "lamppp/data/idx.hpp"

#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <new>
#include <system_error>
#include <utility>
#include <vector>

#include "lamppp/error.hpp"
#include "lamppp/tensor/ops.hpp"

namespace lmp::data {
namespace {

using tensor::DataType;

// The content of a file, decompressed as it is read.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& name) : bytes_(bytes), name_(name) {
    if (bytes.size() >= 2 && bytes[0] == std::byte{0x1f} && bytes[1] == std::byte{0x8b}) {
      zlib_ = std::make_unique<z_stream>();
      constexpr int kGzipOnly = 16;
      if (inflateInit2(zlib_.get(), kGzipOnly + MAX_WBITS) != Z_OK) throw std::bad_alloc();
    }
  }
  ~Reader() {
    if (zlib_) inflateEnd(zlib_.get());
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  [[noreturn]] void fail(std::size_t offset, const std::string& rule) const {
    throw FileError(name_ + ", offset " + std::to_string(offset) +
                    (zlib_ ? " (decompressed): " : ": ") + rule);
  }

  // The most that can follow. Deflate expands at most 1032 times (zlib.net/zlib_tech.html); a few
  // bytes more may be on their way through zlib.
  std::size_t at_most() const { return zlib_ ? 1032 * (bytes_.size() + 8) : bytes_.size(); }

  // Bytes of the file that are not read yet.
  std::size_t left() const { return bytes_.size(); }

  // Fills `out`, or fails naming what is cut short.
  void read(std::span<std::byte> out, const char* what) {
    if (read_some(out) < out.size()) fail(offset_, "the file ends within " + std::string(what));
  }

  void expect_end() {
    const std::size_t end = offset_;
    std::byte extra;
    if (read_some({&extra, 1}) != 0) fail(end, "the file goes on behind the last element");
  }

 private:
  std::size_t read_some(std::span<std::byte> out) {
    if (zlib_) return inflate_some(out);
    const std::size_t count = std::min(out.size(), bytes_.size());
    std::copy_n(bytes_.begin(), count, out.begin());
    bytes_ = bytes_.subspan(count);
    offset_ += count;
    return count;
  }

  std::size_t inflate_some(std::span<std::byte> out) {
    constexpr std::size_t kMost = std::numeric_limits<uInt>::max();
    std::size_t got = 0;
    while (got < out.size() && !(ended_ && bytes_.empty())) {
      // A gzip file may consist of several members.
      if (ended_) inflateReset(zlib_.get());
      const auto available = static_cast<uInt>(std::min(bytes_.size(), kMost));
      const auto wanted = static_cast<uInt>(std::min(out.size() - got, kMost));
      zlib_->next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(bytes_.data()));
      zlib_->avail_in = available;
      zlib_->next_out = reinterpret_cast<Bytef*>(out.data() + got);
      zlib_->avail_out = wanted;
      const int status = inflate(zlib_.get(), Z_NO_FLUSH);
      bytes_ = bytes_.subspan(available - zlib_->avail_in);
      got += wanted - zlib_->avail_out;
      offset_ += wanted - zlib_->avail_out;
      ended_ = status == Z_STREAM_END;
      if (status == Z_MEM_ERROR) throw std::bad_alloc();
      if (status == Z_BUF_ERROR) fail(offset_, "the gzip data is cut short");
      if (status != Z_OK && status != Z_STREAM_END)
        fail(offset_,
             "the gzip data is damaged" + (zlib_->msg ? ": " + std::string(zlib_->msg) : ""));
    }
    return got;
  }

  std::span<const std::byte> bytes_;
  const std::string& name_;
  std::unique_ptr<z_stream> zlib_;
  bool ended_ = false;
  std::size_t offset_ = 0;
};

DataType type_of(const Reader& reader, unsigned code) {
  constexpr std::pair<unsigned, DataType> kTypes[] = {
      {0x08, DataType::UInt8}, {0x09, DataType::Int8},    {0x0B, DataType::Int16},
      {0x0C, DataType::Int32}, {0x0D, DataType::Float32}, {0x0E, DataType::Float64}};
  for (const auto& [known, type] : kTypes)
    if (code == known) return type;
  reader.fail(2, "element type " + std::to_string(code) + " is none of IDX (8, 9, 11 to 14)");
}

// Elements are big-endian in the file.
void to_native(std::byte* data, std::size_t bytes, std::size_t element) {
  if constexpr (std::endian::native == std::endian::little)
    if (element > 1)
      for (std::size_t i = 0; i < bytes; i += element) std::reverse(data + i, data + i + element);
}

Tensor read(Reader& reader) {
  std::byte magic[4];
  reader.read(magic, "the four bytes an IDX file begins with");
  if (magic[0] != std::byte{0} || magic[1] != std::byte{0})
    reader.fail(0, "an IDX file begins with two zero bytes; this is something else");
  const DataType type = type_of(reader, std::to_integer<unsigned>(magic[2]));
  const auto dimensions = std::to_integer<std::size_t>(magic[3]);
  if (dimensions > tensor::kMaxDims)
    reader.fail(3, std::to_string(dimensions) + " dimensions; a tensor has up to 8");

  std::vector<std::uint32_t> sizes(dimensions);
  for (std::uint32_t& size : sizes) {
    const std::span<std::byte> bytes = std::as_writable_bytes(std::span(&size, 1));
    reader.read(bytes, "its dimensions");
    to_native(bytes.data(), sizeof size, sizeof size);
  }

  // Zeros are left out of the product, so that they hide no overflow.
  const std::size_t element = tensor::size_of(type);
  std::size_t bytes = element;
  for (const std::size_t size : sizes) {
    if (size > 0 && bytes > std::numeric_limits<std::int64_t>::max() / size)
      reader.fail(4, "the product of the dimensions overflows");
    bytes *= std::max<std::size_t>(size, 1);
  }
  if (std::find(sizes.begin(), sizes.end(), 0u) != sizes.end()) bytes = 0;
  if (bytes > reader.at_most())
    reader.fail(4, "its dimensions call for " + std::to_string(bytes) +
                       " bytes of elements, but at most " + std::to_string(reader.at_most()) +
                       " follow");

  // Where they call for much more than files mostly hold, what is there is read first.
  constexpr std::size_t kStep = std::size_t{1} << 20, kUsual = 16;
  std::vector<std::byte> first;
  if (bytes > kUsual * reader.left() + kStep)
    while (first.size() < bytes) {
      const std::size_t had = first.size();
      first.resize(std::min(bytes, std::max(kStep, 2 * had)));
      reader.read(std::span(first).subspan(had), "its elements");
    }
  Tensor result = tensor::empty(tensor::Shape(sizes), tensor::DeviceType::CPU, type);
  auto* data = static_cast<std::byte*>(result.data());
  if (first.empty())
    reader.read({data, bytes}, "its elements");
  else
    std::copy(first.begin(), first.end(), data);
  reader.expect_end();
  to_native(data, bytes, element);
  return result;
}

std::vector<std::byte> content_of(const std::string& path) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) throw FileError(path + ": " + error.message());
  std::ifstream file(path, std::ios::binary);
  if (!file) throw FileError(path + ": cannot be opened for reading");
  std::vector<std::byte> content(size);
  file.read(reinterpret_cast<char*>(content.data()), static_cast<std::streamsize>(size));
  if (file.gcount() != static_cast<std::streamsize>(size))
    throw FileError(path + ", offset " + std::to_string(file.gcount()) + ": reading failed");
  return content;
}

}  // namespace

Tensor read_idx(std::span<const std::byte> bytes, const std::string& name) {
  Reader reader(bytes, name);
  return read(reader);
}

Tensor read_idx(const std::string& path) { return read_idx(content_of(path), path); }

}  // namespace lmp::data
