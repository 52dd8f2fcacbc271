#include "model/tensor_store.hpp"

#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "model/json.hpp"
#include "model/weight_map.hpp"

namespace troupe::model {
namespace {

constexpr uint64_t kMaxIndexBytes = 64 << 20;
constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

/// What a file's metadata says of the run that wrote it.
WritingRun run_of(const std::map<std::string, std::string>& metadata) {
  const auto id = metadata.find(std::string(kRunKey));
  if (id == metadata.end()) return {"", "no run of Troupe that left its name"};
  const auto made_by = metadata.find(std::string(kMadeByKey));
  return {id->second, "run " + quoted(id->second) +
                          (made_by == metadata.end() ? "" : " (" + quoted(made_by->second) + ")")};
}

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

}  // namespace

Result<std::vector<TensorHeader>> TensorStore::add_file(const std::string& path) {
  MappedFile file = TRY(MappedFile::open(path));
  const auto parse = [&]() -> Result<SafetensorsHeader> {
    const auto first = TRY(file.read(0, std::min<uint64_t>(file.size(), 8)));
    const uint64_t header_size = TRY(safetensors_header_size(first, file.size()));
    return parse_safetensors(TRY(file.read(0, header_size)), file.size());
  };
  auto header = parse();
  if (!header.ok()) {
    return std::move(header).error().with_context(path);
  }
  WritingRun run = run_of(header->metadata);
  if (files_.empty()) {
    run_ = std::move(run);
  } else if (run.id != run_.id) {
    return Error{Code::kCorrupt, path + " comes from " + run.text + ", but " +
                                     files_.front().path() + " from " + run_.text +
                                     "; their weights do not belong together: write the directory "
                                     "anew, or put the right file back"};
  }
  files_.push_back(std::move(file));
  return std::move(header->tensors);
}

Result<void> TensorStore::open_single(const std::string& path) {
  for (TensorHeader& header : TRY(add_file(path))) {
    tensors_.push_back({std::move(header), 0});
  }
  return {};
}

Result<void> TensorStore::open_sharded(const std::string& directory,
                                       const std::string& index_path) {
  auto weight_map = parse_weight_map(TRY(read_text_file(index_path, kMaxIndexBytes)));
  if (!weight_map.ok()) {
    return std::move(weight_map).error().with_context(index_path);
  }
  for (auto& [file_name, listed] : *weight_map) {
    auto headers = add_file(std::string(directory).append("/").append(file_name));
    if (!headers.ok()) {
      return std::move(headers).error().with_context(index_path + " lists " + quoted(file_name));
    }
    std::sort(listed.begin(), listed.end());
    std::vector<bool> found(listed.size());
    for (TensorHeader& header : *headers) {
      const auto at = std::lower_bound(listed.begin(), listed.end(), header.name);
      if (at == listed.end() || *at != header.name) {
        ++num_unlisted_;
        continue;
      }
      found[static_cast<size_t>(at - listed.begin())] = true;
      tensors_.push_back({std::move(header), static_cast<uint32_t>(files_.size() - 1)});
    }
    const auto missing = std::find(found.begin(), found.end(), false);
    if (missing != found.end()) {
      return Error{Code::kNotFound,
                   index_path + ": tensor " +
                       quoted(listed[static_cast<size_t>(missing - found.begin())]) +
                       " is not in " + quoted(file_name) + ", where weight_map sends it"};
    }
  }
  return {};
}

Result<TensorStore> TensorStore::open(const std::string& directory) {
  TensorStore store;
  const std::string single = directory + "/" + std::string(kSingleFile);
  const std::string index = directory + "/" + std::string(kIndexFile);
  if (exists(single)) {
    TRY(store.open_single(single));
  } else if (exists(index)) {
    TRY(store.open_sharded(directory, index));
  } else {
    return Error{Code::kNotFound, directory + " has neither " + std::string(kSingleFile) + " nor " +
                                      std::string(kIndexFile) +
                                      "; Troupe reads safetensors checkpoints only"};
  }
  std::sort(
      store.tensors_.begin(), store.tensors_.end(),
      [](const StoredTensor& a, const StoredTensor& b) { return a.header.name < b.header.name; });
  return store;
}

const StoredTensor* TensorStore::find(std::string_view name) const {
  const auto at = std::lower_bound(
      tensors_.begin(), tensors_.end(), name,
      [](const StoredTensor& tensor, std::string_view key) { return tensor.header.name < key; });
  return at != tensors_.end() && at->header.name == name ? &*at : nullptr;
}

std::string TensorStore::name_of(const StoredTensor& tensor) const {
  return "tensor " + quoted(tensor.header.name) + " in " + files_[tensor.file].path();
}

Result<std::vector<std::byte>> TensorStore::read(const FileRange& range) const {
  return files_[range.file].read(range.begin, range.end);
}

Result<MappedRanges> TensorStore::map(std::span<const FileRange> ranges) const {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  std::vector<size_t> order(ranges.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::pair(ranges[a].file, ranges[a].begin) < std::pair(ranges[b].file, ranges[b].begin);
  });
  MappedRanges out;
  out.addresses.resize(ranges.size());
  auto mappings = std::make_shared<std::vector<std::shared_ptr<const std::byte>>>();
  for (size_t first = 0; first < order.size();) {
    const FileRange& front = ranges[order[first]];
    uint64_t end = front.end;
    size_t next = first + 1;
    for (; next < order.size(); ++next) {
      const FileRange& range = ranges[order[next]];
      const uint64_t mapped_end = (end + page - 1) / page * page;
      if (range.file != front.file || range.begin / page * page > mapped_end) {
        break;
      }
      end = std::max(end, range.end);
    }
    mappings->push_back(TRY(files_[front.file].map(front.begin, end)));
    for (; first < next; ++first) {
      out.addresses[order[first]] =
          mappings->back().get() + (ranges[order[first]].begin - front.begin);
    }
  }
  out.storage = std::move(mappings);
  return out;
}

Result<uint64_t> TensorStore::digest() const {
  constexpr uint64_t kSamples = 16;
  constexpr uint64_t kSampleBytes = 4096;
  XXH64_hash_t hash = 0;
  const auto add = [&](const void* data, size_t size) {
    hash = XXH3_64bits_withSeed(data, size, hash);
  };
  for (const StoredTensor& tensor : tensors_) {
    add(tensor.header.name.data(), tensor.header.name.size());
    add(tensor.header.stored_dtype.data(), tensor.header.stored_dtype.size());
    add(tensor.header.shape.data(), tensor.header.shape.size() * sizeof(uint64_t));
  }
  for (const MappedFile& file : files_) {
    for (uint64_t i = 0; i < kSamples; ++i) {
      const uint64_t begin = file.size() / kSamples * i;
      const auto bytes = TRY(file.read(begin, std::min(file.size(), begin + kSampleBytes)));
      add(bytes.data(), bytes.size());
    }
  }
  return uint64_t{hash};
}

}  // namespace troupe::model
