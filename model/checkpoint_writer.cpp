#include "model/checkpoint_writer.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <set>
#include <system_error>
#include <utility>

#include "base/bfloat16.hpp"
#include "base/check.hpp"
#include "base/memory_room.hpp"
#include "model/for_all.hpp"
#include "model/json.hpp"
#include "model/mapped_file.hpp"
#include "model/output_files.hpp"

namespace troupe::model {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPartial = ".partial";
constexpr std::string_view kConfig = "config.json";
constexpr std::string_view kIndex = "model.safetensors.index.json";
/// Floats that one thread has at hand, but at least one panel, row of FP8's blocks or head.
constexpr uint64_t kChunkElements = uint64_t{1} << 20;

Error system_error(const std::string& what, int number) {
  const bool full = number == ENOSPC || number == EDQUOT || number == EFBIG;
  return Error{full                                  ? Code::kResourceExhausted
               : number == EACCES || number == EROFS ? Code::kInvalidArgument
                                                     : Code::kInternal,
               what + ": " + std::generic_category().message(number)};
}

/// A descriptor that closes itself.
class File {
 public:
  static Result<File> open(const std::string& path, int flags) {
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
    if (fd < 0) return system_error("cannot open " + path, errno);
    return File(path, fd);
  }
  File(File&& other) noexcept : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
  File& operator=(File&&) = delete;
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }

  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] const std::string& path() const { return path_; }

  [[nodiscard]] Result<void> write(uint64_t at, const void* data, size_t size) const {
    const auto* from = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t wrote = ::pwrite(fd_, from, size, static_cast<off_t>(at));
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote <= 0) return system_error("cannot write " + path_, wrote < 0 ? errno : ENOSPC);
      from += wrote;
      at += static_cast<uint64_t>(wrote);
      size -= static_cast<size_t>(wrote);
    }
    return {};
  }

  [[nodiscard]] Result<void> sync() const {
    if (::fsync(fd_) != 0) return system_error("cannot write " + path_, errno);
    return {};
  }

 private:
  File(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string path_;
  int fd_;
};

Result<void> sync_directory(const std::string& directory) {
  return TRY(File::open(directory, O_RDONLY | O_DIRECTORY)).sync();
}

Result<void> rename_file(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) return system_error("cannot write " + to, errno);
  return {};
}

/// A small file, there whole or not at all.
Result<void> write_text(const std::string& path, std::string_view text) {
  const std::string partial = path + std::string(kPartial);
  {
    const File file = TRY(File::open(partial, O_WRONLY | O_CREAT | O_TRUNC));
    TRY(file.write(0, text.data(), text.size()));
    TRY(file.sync());
  }
  return rename_file(partial, path);
}

constexpr uint64_t kBlock = WeightView::kScaleBlock;

/// Some rows of one unit: what a thread does at once.
struct Chunk {
  const OutputUnit* unit;
  uint64_t first, count;  ///< rows of the source
};

std::vector<Chunk> chunks_of(const OutputFile& file) {
  std::vector<Chunk> chunks;
  for (const OutputUnit& unit : file.units) {
    uint64_t step = unit.out;
    if (unit.key_value) {
      step = unit.key_value->nope + unit.key_value->v;
    } else if (unit.out > 1) {
      const bool in_blocks = unit.matrices.front().scheme.dtype == DType::kF8E4M3;
      const uint64_t whole = in_blocks ? kBlock : kPanelRows;
      step = std::max<uint64_t>(1, kChunkElements / unit.in / whole) * whole;
    }
    for (uint64_t first = 0; first < unit.out; first += step) {
      chunks.push_back({&unit, first, std::min(step, unit.out - first)});
    }
  }
  return chunks;
}

/// Bytes for a place in the file.
struct Piece {
  uint64_t begin;
  std::vector<uint8_t> bytes;
};

/// Room for rows [first, first + count) of a matrix in one of its tensors, which has something for
/// every so many rows.
uint8_t* add_piece(std::vector<Piece>& pieces, const OutputMatrix& matrix,
                   const OutputTensor& tensor, uint64_t first, uint64_t count,
                   uint64_t rows_each = 1) {
  const auto parts = [&](uint64_t n) { return (n + rows_each - 1) / rows_each; };
  const uint64_t part_bytes = tensor.bytes / parts(matrix.out);
  pieces.push_back(
      {tensor.begin + parts(first) * part_bytes, std::vector<uint8_t>(parts(count) * part_bytes)});
  return pieces.back().bytes.data();  // stays there when the pieces move
}

/// Rows [first, first + count) of a matrix as its file holds them. Empty on numbers that are not
/// finite.
std::vector<Piece> encode(const OutputMatrix& matrix, uint64_t first, uint64_t count,
                          const float* rows) {
  std::vector<Piece> pieces;
  const uint64_t in = matrix.in;
  const auto piece = [&](const OutputTensor& tensor, uint64_t rows_each = 1) {
    return add_piece(pieces, matrix, tensor, first, count, rows_each);
  };
  const Scheme& scheme = matrix.scheme;
  uint8_t* data = piece(matrix.data);
  if (scheme.dtype == DType::kF8E4M3) {
    uint8_t* stored_scales = piece(matrix.scales, kBlock);
    std::vector<float> scales(WeightView::num_scale_blocks(in));
    for (uint64_t row = 0; row < count; row += kBlock) {
      if (!quantise_f8(rows + row * in, std::min(kBlock, count - row), in, data + row * in,
                       scales.data())) {
        return {};
      }
      std::memcpy(stored_scales, scales.data(), scales.size() * sizeof(float));
      stored_scales += scales.size() * sizeof(float);
    }
    return pieces;
  }
  if (!scheme.in_panels()) {
    for (uint64_t i = 0; i < count * in; ++i) {
      if (scheme.dtype == DType::kF32) {
        std::memcpy(data + 4 * i, rows + i, 4);
      } else {
        const uint16_t bits = to_bf16(rows[i]);
        std::memcpy(data + 2 * i, &bits, 2);
      }
    }
    return pieces;
  }
  const uint64_t scales_of_panel = scheme.num_groups(in) * kPanelRows;
  std::vector<uint16_t> scales(scales_of_panel);
  uint8_t* stored_scales = piece(matrix.scales);
  uint8_t* zeros = scheme.zeros ? piece(matrix.zeros) : nullptr;
  const uint64_t panel_bytes = kPanelRows * in * bits_of(scheme.dtype) / 8;
  for (uint64_t panel = 0; panel < count / kPanelRows; ++panel) {
    if (!quantise_panel(rows + panel * kPanelRows * in, in, scheme,
                        {.data = data + panel * panel_bytes,
                         .scales = scales.data(),
                         .zeros = zeros == nullptr ? nullptr : zeros + panel * scales_of_panel})) {
      return {};
    }
    std::memcpy(stored_scales + panel * scales_of_panel * 2, scales.data(), scales_of_panel * 2);
  }
  return pieces;
}

/// Rows of a matrix whose panels the source has.
Result<std::vector<Piece>> keep(const TensorSource& source, const Chunk& chunk) {
  const OutputMatrix& matrix = chunk.unit->matrices.front();
  std::vector<Piece> pieces;
  const auto piece = [&](const OutputTensor& tensor) {
    return add_piece(pieces, matrix, tensor, chunk.first, chunk.count);
  };
  uint8_t* data = piece(matrix.data);
  uint8_t* stored_scales = piece(matrix.scales);
  const uint64_t scales_of_panel = matrix.scheme.num_groups(matrix.in) * kPanelRows;
  std::vector<float> scales(scales_of_panel);
  std::vector<uint8_t> no_zeros(scales_of_panel);  // all in the middle
  uint8_t* zeros = matrix.scheme.zeros ? piece(matrix.zeros) : nullptr;
  const uint64_t panel_bytes = kPanelRows * matrix.in * bits_of(matrix.scheme.dtype) / 8;
  if (matrix.columns.bytes > 0 && chunk.first == 0) {
    const auto columns = std::as_bytes(source.integers(chunk.unit->source)->columns);
    const auto* bytes = reinterpret_cast<const uint8_t*>(columns.data());
    pieces.push_back({matrix.columns.begin, {bytes, bytes + columns.size()}});
  }
  const bool as_bf16 = matrix.scales.dtype == to_string(DType::kBF16);
  for (uint64_t panel = 0; panel < chunk.count / kPanelRows; ++panel) {
    TRY(source.read_panel(
        chunk.unit->source, chunk.first / kPanelRows + panel,
        {.data = reinterpret_cast<std::byte*>(data) + panel * panel_bytes,
         .scales = scales.data(),
         .zeros = zeros == nullptr ? no_zeros.data() : zeros + panel * scales_of_panel}));
    for (uint64_t i = 0; i < scales_of_panel; ++i) {
      const uint64_t at = panel * scales_of_panel + i;
      if (as_bf16) {
        const uint16_t bits = to_bf16(scales[i]);
        std::memcpy(stored_scales + 2 * at, &bits, sizeof bits);
      } else {
        std::memcpy(stored_scales + 4 * at, &scales[i], sizeof(float));
      }
    }
  }
  return pieces;
}

/// What a chunk becomes.
Result<std::vector<Piece>> make(const TensorSource& source, const Chunk& chunk) {
  const OutputUnit& unit = *chunk.unit;
  if (unit.kept) return keep(source, chunk);
  std::vector<float> rows(chunk.count * unit.in);
  TRY(source.read(unit.source, unit.in, chunk.first, chunk.count, rows.data()));
  std::vector<Piece> pieces;
  const auto add = [&](const OutputMatrix& matrix, uint64_t first, uint64_t count,
                       const float* values) {
    std::vector<Piece> more = encode(matrix, first, count, values);
    std::move(more.begin(), more.end(), std::back_inserter(pieces));
    return !more.empty();
  };
  bool finite = true;
  if (!unit.key_value) {
    finite = add(unit.matrices.front(), chunk.first, chunk.count, rows.data());
  } else {
    const TensorVisitor::KeyValueShape& s = *unit.key_value;
    const uint64_t head = chunk.first / (s.nope + s.v);
    std::vector<float> keys(s.latent * s.nope);
    for (uint64_t row = 0; row < s.nope; ++row) {
      for (uint64_t i = 0; i < s.latent; ++i) keys[i * s.nope + row] = rows[row * s.latent + i];
    }
    finite = add(unit.matrices[0], head * s.latent, s.latent, keys.data()) &&
             add(unit.matrices[1], head * s.v, s.v, rows.data() + s.nope * s.latent);
  }
  if (!finite) {
    return Error{Code::kCorrupt, "tensor " + model::quoted(unit.source) +
                                     " has a number that is not finite in rows " +
                                     std::to_string(chunk.first) + " to " +
                                     std::to_string(chunk.first + chunk.count - 1)};
  }
  return pieces;
}

/// A hash of a written piece, to compare with what the file gives back.
struct Written {
  uint64_t begin, size, hash;
};

class Saving {
 public:
  Saving(const TensorSource& source, const SavePlan& plan, OutputFiles output)
      : source_(source), plan_(plan), output_(std::move(output)) {}

  Result<SaveSummary> run() {
    TRY(check_memory());
    std::error_code failed;
    fs::create_directories(plan_.directory, failed);
    if (failed) return system_error("cannot make " + plan_.directory, failed.value());
    const File lock = TRY(claim());
    const std::vector<const OutputFile*> missing = TRY(missing_files());
    TRY(check_disk(missing));
    for (const OutputFile& file : output_.files) total_ += file.size;
    done_ = total_;
    for (const OutputFile* file : missing) done_ -= file->size;
    summary_.files_kept = output_.files.size() - missing.size();
    for (const OutputFile* file : missing) TRY(write(*file));
    if (!output_.index_json.empty()) TRY(write_text(path_of(kIndex), output_.index_json));
    for (const std::string& from : plan_.copied_files) {
      const std::string text = TRY(read_text_file(from, uint64_t{1} << 30));
      TRY(write_text(path_of(fs::path(from).filename().string()), text));
    }
    TRY(sync_directory(plan_.directory));
    TRY(write_text(path_of(kConfig), plan_.config_json));
    if (::unlink(path_of(kUnfinishedFile).c_str()) != 0) {
      return system_error("cannot remove " + path_of(kUnfinishedFile), errno);
    }
    TRY(sync_directory(plan_.directory));
    summary_.bytes = output_.bytes;
    summary_.num_files = output_.files.size();
    summary_.matrices_kept = output_.kept;
    return summary_;
  }

 private:
  [[nodiscard]] std::string path_of(std::string_view name) const {
    return plan_.directory + "/" + std::string(name);
  }

  /// Everything that the content of the directory follows from.
  [[nodiscard]] std::string settings() const {
    uint64_t headers = 0;
    for (const OutputFile& file : output_.files) {
      headers = XXH3_64bits_withSeed(file.header.data(), file.header.size(), headers);
    }
    return boost::json::serialize(boost::json::object{
               {"unfinished", "troupe was interrupted here; the same command goes on"},
               {"identity", plan_.identity},
               {"config", plan_.config_json},
               {"headers", headers}}) +
           "\n";
  }

  /// Makes the directory ours: it is empty, or an earlier run with the same settings left it.
  Result<File> claim() {
    std::set<std::string> known = {std::string(kUnfinishedFile), std::string(kIndex)};
    for (const OutputFile& file : output_.files) known.insert(file.name);
    for (const std::string& from : plan_.copied_files) {
      known.insert(fs::path(from).filename().string());
    }
    known.insert(std::string(kConfig));
    bool begun = false;
    std::string foreign;
    std::error_code failed;
    for (const auto& entry : fs::directory_iterator(plan_.directory, failed)) {
      std::string name = entry.path().filename().string();
      if (name == kConfig) {
        return refusal("already holds a checkpoint");
      }
      begun = begun || name == kUnfinishedFile;
      if (name.ends_with(kPartial)) name.resize(name.size() - kPartial.size());
      if (!known.contains(name)) foreign = name;
    }
    if (failed) return system_error("cannot read " + plan_.directory, failed.value());
    if (!foreign.empty()) return refusal("already holds " + model::quoted(foreign));
    if (!begun && !fs::is_empty(plan_.directory, failed)) {
      return refusal("is not empty");
    }
    // A refusal leaves no name of this run in an empty directory, where others may have room.
    if (!begun) TRY(check_disk(TRY(missing_files())));
    File lock = TRY(File::open(path_of(kUnfinishedFile), O_RDWR | O_CREAT));
    if (::flock(lock.fd(), LOCK_EX | LOCK_NB) != 0) {
      return Error{Code::kUnavailable, "another run is writing " + plan_.directory};
    }
    const std::string ours = settings();
    // An empty one is of a run that ended before it had written anything else.
    const std::string theirs = TRY(read_text_file(lock.path(), uint64_t{64} << 20));
    if (theirs.empty()) {
      TRY(lock.write(0, ours.data(), ours.size()));
      TRY(lock.sync());
    } else if (theirs != ours) {
      return refusal(
          "holds the beginning of another run (of another model, scheme or version); remove it");
    }
    return lock;
  }

  [[nodiscard]] Error refusal(const std::string& what) const {
    return Error{Code::kInvalidArgument,
                 plan_.directory + " " + what + "; a new or an empty directory is needed"};
  }

  [[nodiscard]] Result<bool> is_complete(const OutputFile& file) const {
    std::error_code missing;
    const uint64_t size = fs::file_size(path_of(file.name), missing);
    if (missing || size != file.size) return false;
    const MappedFile opened = TRY(MappedFile::open(path_of(file.name)));
    const std::vector<std::byte> header = TRY(opened.read(0, file.header.size()));
    return std::memcmp(header.data(), file.header.data(), header.size()) == 0;
  }

  [[nodiscard]] Result<std::vector<const OutputFile*>> missing_files() const {
    std::vector<const OutputFile*> missing;
    for (const OutputFile& file : output_.files) {
      if (!TRY(is_complete(file))) missing.push_back(&file);
    }
    return missing;
  }

  [[nodiscard]] Result<void> check_disk(const std::vector<const OutputFile*>& missing) const {
    uint64_t needed = uint64_t{16} << 20;
    for (const OutputFile* file : missing) {
      needed += file->size;
      std::error_code none;
      const uint64_t partial = fs::file_size(path_of(file->name + std::string(kPartial)), none);
      if (!none) needed -= std::min(needed, partial);  // it will be overwritten
    }
    struct statvfs disk {};
    if (::statvfs(plan_.directory.c_str(), &disk) != 0) {
      return system_error("cannot examine " + plan_.directory, errno);
    }
    const uint64_t available = uint64_t{disk.f_bavail} * disk.f_frsize;
    if (needed <= available) return {};
    return Error{Code::kResourceExhausted, plan_.directory + " needs " +
                                               std::to_string(needed >> 20) + " MiB more, and " +
                                               std::to_string(available >> 20) + " are free"};
  }

  [[nodiscard]] Result<void> check_memory() const {
    uint64_t largest = 0;  // floats, their transposed copy, and the encoded bytes
    for (const OutputFile& file : output_.files) {
      for (const Chunk& chunk : chunks_of(file)) {
        largest = std::max(largest, chunk.count * chunk.unit->in * 12);
      }
    }
    return check_memory_room(std::to_string(plan_.num_threads) + " threads need",
                             largest * plan_.num_threads, available_memory(),
                             "fewer threads need less");
  }

  void advance(uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    done_ += bytes;
    if (plan_.progress) plan_.progress(done_, total_);
  }

  Result<void> write(const OutputFile& planned) {
    const std::string partial = path_of(planned.name + std::string(kPartial));
    std::vector<Written> written;
    {
      const File file = TRY(File::open(partial, O_RDWR | O_CREAT | O_TRUNC));
      if (::posix_fallocate(file.fd(), 0, static_cast<off_t>(planned.size)) == ENOSPC) {
        return system_error("cannot write " + partial, ENOSPC);
      }
      TRY(file.write(0, planned.header.data(), planned.header.size()));
      advance(planned.header.size());
      const std::vector<Chunk> chunks = chunks_of(planned);
      TRY(for_all(chunks.size(), plan_.num_threads, [&](size_t i) -> Result<void> {
        const std::vector<Piece> pieces = TRY(make(source_, chunks[i]));
        uint64_t bytes = 0;
        for (const Piece& piece : pieces) {
          TRY(file.write(piece.begin, piece.bytes.data(), piece.bytes.size()));
          bytes += piece.bytes.size();
          if (!plan_.verify) continue;
          const uint64_t hash = XXH3_64bits(piece.bytes.data(), piece.bytes.size());
          const std::lock_guard lock(mutex_);
          written.push_back({piece.begin, piece.bytes.size(), hash});
        }
        advance(bytes);
        return {};
      }));
      TRY(file.sync());
      // Written pages leave the cache, so that reading again reads the disk.
      if (plan_.verify) ::posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED);
    }
    if (plan_.verify) TRY(verify(partial, written));
    TRY(rename_file(partial, path_of(planned.name)));
    return sync_directory(plan_.directory);
  }

  [[nodiscard]] Result<void> verify(const std::string& path, std::vector<Written>& written) const {
    const MappedFile file = TRY(MappedFile::open(path));
    std::sort(written.begin(), written.end(),
              [](const Written& a, const Written& b) { return a.begin < b.begin; });
    return for_all(written.size(), plan_.num_threads, [&](size_t i) -> Result<void> {
      const Written& piece = written[i];
      const std::vector<std::byte> bytes = TRY(file.read(piece.begin, piece.begin + piece.size));
      if (XXH3_64bits(bytes.data(), bytes.size()) == piece.hash) return {};
      return Error{Code::kCorrupt, path + " does not read back as it was written, from byte " +
                                       std::to_string(piece.begin) + " on; is the disk damaged?"};
    });
  }

  const TensorSource& source_;
  const SavePlan& plan_;
  const OutputFiles output_;
  SaveSummary summary_;
  std::mutex mutex_;
  uint64_t done_ = 0;
  uint64_t total_ = 0;
};

}  // namespace

Result<void> TensorSource::read_panel(const std::string&, uint64_t, const PanelPart&) const {
  CHECK(false);  // integers() names none
  return {};
}

Result<SaveSummary> save_checkpoint(const ModelConfig& config, const TensorSource& source,
                                    const SavePlan& plan) {
  CHECK_GT(plan.num_threads, size_t{0});
  return Saving(source, plan, TRY(plan_output(config, source, plan))).run();
}

}  // namespace troupe::model
