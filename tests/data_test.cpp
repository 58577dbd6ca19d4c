#include <gtest/gtest.h>
#include <stdlib.h>
#include <zlib.h>

#include <algorithm>
#include <concepts>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>
#include <string>

#include "autograd_support.hpp"

namespace {

using namespace lmp;
using namespace lmp::data;
using Bytes = std::vector<std::byte>;

Bytes bytes_of(std::initializer_list<int> values) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

Bytes idx(int type, std::initializer_list<std::uint32_t> sizes, const Bytes& elements) {
  Bytes bytes = bytes_of({0, 0, type, static_cast<int>(sizes.size())});
  for (const std::uint32_t size : sizes)
    for (const int shift : {24, 16, 8, 0}) bytes.push_back(static_cast<std::byte>(size >> shift));
  bytes.insert(bytes.end(), elements.begin(), elements.end());
  return bytes;
}

Bytes gzip(const Bytes& bytes) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  Bytes out(deflateBound(&stream, bytes.size()));
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// The message of the FileError that reading throws.
std::string error_of(const std::function<void()>& read) {
  try {
    read();
  } catch (const FileError& error) {
    return error.what();
  }
  ADD_FAILURE() << "no FileError";
  return "";
}
std::string error_of(const Bytes& bytes) {
  return error_of([&] { read_idx(bytes, "file"); });
}

const Bytes kSmall =
    idx(0x0B, {2, 3}, bytes_of({0, 1, 0, 2, 0xff, 0xff, 1, 0, 0x7f, 0xff, 0x80, 0}));

TEST(Idx, EveryType) {
  EXPECT_EQ(read_idx(idx(0x08, {3}, bytes_of({0, 7, 255}))).to_vector<unsigned char>(),
            (std::vector<unsigned char>{0, 7, 255}));
  EXPECT_EQ(read_idx(idx(0x09, {2}, bytes_of({0x80, 1}))).to_vector<signed char>(),
            (std::vector<signed char>{-128, 1}));
  EXPECT_EQ(read_idx(kSmall).to_vector<std::int16_t>(),
            (std::vector<std::int16_t>{1, 2, -1, 256, 32767, -32768}));
  EXPECT_EQ(read_idx(idx(0x0C, {1}, bytes_of({1, 2, 3, 4}))).item<int>(), 0x01020304);
  EXPECT_EQ(read_idx(idx(0x0D, {1}, bytes_of({0x3f, 0xc0, 0, 0}))).item<float>(), 1.5f);
  EXPECT_EQ(read_idx(idx(0x0E, {1}, bytes_of({0xc0, 4, 0, 0, 0, 0, 0, 0}))).item<double>(), -2.5);
  const DataType types[] = {DataType::UInt8, DataType::Int8,    DataType::Bool,   DataType::Int16,
                            DataType::Int32, DataType::Float32, DataType::Float64};
  for (const int code : {0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E})
    EXPECT_EQ(read_idx(idx(code, {0}, {})).type(), types[code - 8]);
}

TEST(Idx, Shapes) {
  EXPECT_EQ(read_idx(kSmall).shape(), (Shape{2, 3}));
  EXPECT_EQ(read_idx(idx(0x08, {}, bytes_of({5}))).shape(), Shape{});
  EXPECT_EQ(read_idx(idx(0x08, {2, 0, 3}, {})).shape(), (Shape{2, 0, 3}));
  EXPECT_EQ(read_idx(idx(0x08, {1, 1, 1, 1, 1, 1, 1, 1}, bytes_of({5}))).ndim(), 8);
  EXPECT_EQ(error_of(idx(0x08, {1, 1, 1, 1, 1, 1, 1, 1, 1}, bytes_of({5}))),
            "file, offset 3: 9 dimensions; a tensor has up to 8");
}

TEST(Idx, GzipByContent) {
  EXPECT_TRUE(array_equal(read_idx(gzip(kSmall)), read_idx(kSmall)));
  const auto middle = kSmall.begin() + 15;
  EXPECT_TRUE(array_equal(
      read_idx(gzip(Bytes(kSmall.begin(), middle)) + gzip({}) + gzip(Bytes(middle, kSmall.end()))),
      read_idx(kSmall)));
}

TEST(Idx, ErrorsNameFileOffsetAndRule) {
  EXPECT_EQ(error_of(Bytes{}),
            "file, offset 0: the file ends within the four bytes an IDX file begins with");
  EXPECT_EQ(error_of(bytes_of({'P', 'K', 3, 4})),
            "file, offset 0: an IDX file begins with two zero bytes; this is something else");
  EXPECT_EQ(error_of(idx(0x0A, {1}, bytes_of({0}))),
            "file, offset 2: element type 10 is none of IDX (8, 9, 11 to 14)");
  EXPECT_EQ(error_of(bytes_of({0, 0, 8, 2, 0, 0, 0, 1, 0})),
            "file, offset 9: the file ends within its dimensions");
  EXPECT_EQ(error_of(idx(0x08, {2, 2}, bytes_of({1, 2, 3}))),
            "file, offset 4: its dimensions call for 4 bytes of elements, but at most 3 follow");
  EXPECT_EQ(error_of(idx(0x08, {2}, bytes_of({1, 2, 3}))),
            "file, offset 10: the file goes on behind the last element");
  EXPECT_EQ(error_of(gzip(idx(0x08, {4}, bytes_of({1, 2, 3})))),
            "file, offset 11 (decompressed): the file ends within its elements");
  EXPECT_EQ(error_of(gzip(idx(0x08, {2}, bytes_of({1, 2, 3})))),
            "file, offset 10 (decompressed): the file goes on behind the last element");
  EXPECT_EQ(error_of([] { read_idx("/nowhere/x"); }), "/nowhere/x: No such file or directory");
  EXPECT_NE(error_of([] { read_idx("/"); }).find("/: "), std::string::npos);
  EXPECT_NE(error_of([] { read_idx("/dev/zero"); }).find("/dev/zero: "), std::string::npos);
}

TEST(Idx, HugeDimensionsAreRefusedBeforeAllocation) {
  constexpr std::uint32_t kMax = 0xffffffff;
  for (const auto& sizes : {std::initializer_list<std::uint32_t>{kMax, kMax, kMax},
                            {kMax, kMax, kMax, 0},
                            {0, kMax, kMax, kMax},
                            {1u << 31, 1u << 31, 2},
                            {1u << 30, 1u << 30, 1}})
    for (const bool zipped : {false, true}) {
      const Bytes plain = idx(0x0E, sizes, bytes_of({1, 2, 3}));
      EXPECT_NE(error_of(zipped ? gzip(plain) : plain).find("overflows"), std::string::npos);
    }
  const auto before = memory_stats().peak_live_bytes;
  for (const Bytes& bytes :
       {idx(0x08, {kMax}, bytes_of({1})), gzip(idx(0x08, {kMax}, bytes_of({1})))})
    EXPECT_NE(error_of(bytes).find("call for 4294967295 bytes"), std::string::npos);
  EXPECT_LT(memory_stats().peak_live_bytes, before + (1 << 20));
}

TEST(Idx, SizesThatAreALieCostNoMoreThanWhatIsThere) {
  Bytes noise(1 << 20);
  std::uint32_t state = 1;
  for (auto& byte : noise)
    byte = static_cast<Bytes::value_type>((state = state * 1664525U + 1) >> 24);
  const Bytes lie = gzip(idx(0x08, {1000000000}, noise));
  {
    empty_cache();
    const lmp::testing::MemoryLeft left(1 << 20);
    EXPECT_NE(error_of(lie).find("ends within its elements"), std::string::npos);
  }
  const Bytes zeros = idx(0x08, {1 << 22}, Bytes(1 << 22));
  EXPECT_TRUE(array_equal(read_idx(gzip(zeros)), read_idx(zeros)));
}

TEST(Idx, ABombIsNotUnpacked) {
  const Bytes bomb = gzip(idx(0x08, {4}, Bytes(64 << 20)));
  EXPECT_EQ(error_of(bomb),
            "file, offset 12 (decompressed): the file goes on behind the last element");
}

TEST(Idx, EveryTruncationIsAnError) {
  for (const Bytes& whole : {kSmall, gzip(kSmall), gzip(kSmall) + gzip({})})
    for (std::size_t size = 0; size < whole.size(); ++size) {
      const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
      if (size == gzip(kSmall).size()) continue;  // the first of two members, complete
      error_of(cut);
    }
  for (const Bytes& whole : {kSmall, gzip(kSmall)}) error_of(whole + bytes_of({0}));
}

TEST(Idx, EveryFlipGivesAnErrorOrAValidTensor) {
  for (const Bytes& whole : {kSmall, gzip(kSmall)})
    for (std::size_t i = 0; i < whole.size(); ++i)
      for (int value = 1; value < 256; ++value) {
        Bytes changed = whole;
        changed[i] ^= static_cast<std::byte>(value);
        try {
          const Tensor tensor = read_idx(changed, "file");
          EXPECT_EQ(tensor.to_vector<double>().size(), tensor.numel());
          EXPECT_LE(tensor.numel(), 12u);
        } catch (const FileError& error) {
          EXPECT_EQ(std::string(error.what()).find("file, offset "), 0u);
        }
      }
}

class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "lamppp-XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  void write(const std::string& name, const Bytes& bytes) const {
    std::ofstream(path_ / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

const Bytes kImages = idx(0x08, {2, 1, 2}, bytes_of({0, 50, 100, 25}));
const Bytes kLabels = idx(0x08, {2}, bytes_of({9, 0}));

TEST(Mnist, TheDigitsThatComeWithLamppp) {
  const Mnist digits = load_mnist(LAMPPP_DATA_DIR "/digits");
  EXPECT_EQ(digits.train_images.shape(), (Shape{1437, 64}));
  EXPECT_EQ(digits.train_labels.shape(), (Shape{1437}));
  EXPECT_EQ(digits.test_images.shape(), (Shape{360, 64}));
  EXPECT_EQ(digits.train_images.type(), DataType::Float32);
  EXPECT_EQ(digits.train_labels.type(), DataType::Int64);
  EXPECT_EQ(digits.height, 8u);
  EXPECT_EQ(digits.width, 8u);
  EXPECT_EQ(max(digits.train_images).item(), 1.0);
  EXPECT_EQ(min(digits.train_images).item(), 0.0);
  EXPECT_EQ(max(digits.test_labels).item(), 9.0);
}

TEST(Mnist, NamesOfFiles) {
  for (const std::string separator : {"-", "."})
    for (const std::string suffix : {"", ".gz"})
      for (const std::string set : {"t10k", "test"}) {
        const Folder folder;
        const auto write = [&](const std::string& name, const Bytes& bytes) {
          folder.write(
              name + separator + (name.ends_with("images") ? "idx3" : "idx1") + "-ubyte" + suffix,
              suffix.empty() ? bytes : gzip(bytes));
        };
        write("train-images", kImages);
        write("train-labels", kLabels);
        write(set + "-images", kImages);
        write(set + "-labels", kLabels);
        const Mnist data = load_mnist(folder.path());
        EXPECT_EQ(data.test_images.to_vector<float>(), (std::vector<float>{0, 0.5f, 1, 0.25f}));
        EXPECT_EQ(data.test_labels.to_vector<int>(), (std::vector<int>{9, 0}));
      }
}

TEST(Mnist, Errors) {
  const Folder folder;
  const auto error = [&] {
    const std::string message = error_of([&] { load_mnist(folder.path()); });
    EXPECT_EQ(message.find(folder.path()), 0u) << message;
    return message.substr(folder.path().size());
  };
  EXPECT_EQ(error_of([] { load_mnist("/nowhere"); }), "/nowhere: there is no such folder");
  EXPECT_EQ(error(), ": there is no train-images-idx3-ubyte (or the same with .gz) in this folder");
  for (const std::string set : {"train", "t10k"}) {
    folder.write(set + "-images-idx3-ubyte", kImages);
    folder.write(set + "-labels-idx1-ubyte", kLabels);
  }
  EXPECT_NO_THROW(load_mnist(folder.path()));
  folder.write("t10k-labels-idx1-ubyte", idx(0x08, {2}, bytes_of({9, 10})));
  EXPECT_EQ(error(), "/t10k-labels-idx1-ubyte, offset 9: label 10; digits are 0 to 9");
  folder.write("t10k-labels-idx1-ubyte", idx(0x08, {1}, bytes_of({9})));
  EXPECT_NE(error().find("/t10k-labels-idx1-ubyte, offset 4: 1 labels for the 2 images"),
            std::string::npos);
  folder.write("t10k-labels-idx1-ubyte", kImages);
  EXPECT_NE(error().find("labels are bytes in 1 dimension"), std::string::npos);
  folder.write("t10k-labels-idx1-ubyte", kLabels);
  folder.write("t10k-images-idx3-ubyte", idx(0x08, {2, 2, 1}, bytes_of({1, 2, 3, 4})));
  EXPECT_EQ(error(), ": the test images differ in size from the training images");
  folder.write("t10k-images-idx3-ubyte", idx(0x08, {0, 1, 2}, {}));
  EXPECT_NE(error().find("images are bytes in 3 dimensions"), std::string::npos);
  folder.write("t10k-images-idx3-ubyte", Bytes(kImages.begin(), kImages.end() - 1));
  EXPECT_NE(error().find("at most 3 follow"), std::string::npos);
}

static_assert(std::input_iterator<DataLoader::Iterator>);
static_assert(std::sentinel_for<std::default_sentinel_t, DataLoader::Iterator>);

DataLoader numbers(std::int64_t count, const DataLoaderOptions& options) {
  return DataLoader(arange(count).reshape({count, 1}), arange(count), options);
}

// The targets of one epoch, batch by batch.
std::vector<std::vector<int>> epoch(const DataLoader& loader) {
  std::vector<std::vector<int>> batches;
  for (auto& batch : loader) {
    EXPECT_EQ(batch.input.shape(), (Shape{batch.target.numel(), 1}));
    EXPECT_TRUE(array_equal(batch.input.flatten(), batch.target));
    batches.push_back(batch.target.to_vector<int>());
  }
  EXPECT_EQ(batches.size(), loader.size());
  return batches;
}

TEST(DataLoader, InOrder) {
  const DataLoader loader = numbers(7, {.batch_size = 3});
  EXPECT_EQ(epoch(loader), (std::vector<std::vector<int>>{{0, 1, 2}, {3, 4, 5}, {6}}));
  EXPECT_EQ(epoch(loader), epoch(loader));
  EXPECT_EQ(epoch(numbers(7, {.batch_size = 3, .drop_last = true})),
            (std::vector<std::vector<int>>{{0, 1, 2}, {3, 4, 5}}));
  EXPECT_EQ(epoch(numbers(6, {.batch_size = 3})),
            epoch(numbers(6, {.batch_size = 3, .drop_last = true})));
  EXPECT_EQ(epoch(numbers(2, {.batch_size = 100})), (std::vector<std::vector<int>>{{0, 1}}));
  EXPECT_TRUE(epoch(numbers(2, {.batch_size = 100, .drop_last = true})).empty());
  EXPECT_TRUE(epoch(numbers(0, {})).empty());
}

TEST(DataLoader, ShufflesEachEpochAnew) {
  const auto flat = [](const std::vector<std::vector<int>>& batches) {
    std::vector<int> all;
    for (const auto& batch : batches) all.insert(all.end(), batch.begin(), batch.end());
    return all;
  };
  const DataLoader loader = numbers(100, {.batch_size = 32, .shuffle = true, .seed = 1});
  const std::vector<int> first = flat(epoch(loader)), second = flat(epoch(loader));
  std::vector<int> sorted = first, all(100);
  std::iota(all.begin(), all.end(), 0);
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(sorted, all);
  EXPECT_NE(first, all);
  EXPECT_NE(first, second);
}

TEST(DataLoader, TheSameSeedGivesTheSameBatches) {
  const auto two_epochs = [](std::uint64_t seed) {
    const DataLoader loader = numbers(50, {.batch_size = 8, .shuffle = true, .seed = seed});
    const auto first = epoch(loader);
    rand({1000});  // the loader's random numbers are its own
    return std::pair(first, epoch(loader));
  };
  manual_seed(1);
  const auto once = two_epochs(3);
  manual_seed(2);
  EXPECT_EQ(two_epochs(3), once);
  EXPECT_NE(two_epochs(4), once);
  // This order is a promise: it stays from version to version.
  EXPECT_EQ(epoch(numbers(20, {.batch_size = 20, .shuffle = true, .seed = 3})),
            (std::vector<std::vector<int>>{
                {2, 1, 7, 14, 12, 4, 17, 19, 18, 15, 5, 9, 11, 6, 13, 3, 0, 16, 8, 10}}));
}

TEST(DataLoader, BatchesAreCopies) {
  Tensor inputs = zeros({4, 2});
  DataLoader loader(inputs, arange(4), {.batch_size = 2});
  for (Batch& batch : loader) batch.input.fill(1);
  for (auto& [input, target] : loader) input = target;
  EXPECT_TRUE(array_equal(inputs, zeros({4, 2})));
}

TEST(DataLoader, Errors) {
  EXPECT_THROW(DataLoader(zeros({3, 1}), arange(4)), ShapeError);
  EXPECT_THROW(DataLoader(zeros({}), zeros({})), ShapeError);
  EXPECT_THROW(DataLoader(Tensor(), Tensor()), ShapeError);
  EXPECT_THROW(DataLoader(zeros({3}), zeros({3}), {.batch_size = 0}), ValueError);
}

}  // namespace
