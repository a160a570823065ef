// A stub of as much of Poplar's graphs as rbd_ipu/devices/ipu/codelets/hash_op.cpp calls. It keeps what was added, so
// that a test can look at it and run it: see tests/poplar/run.cpp.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace poplar {

struct Type {
  int kind;
};
static const Type INT = {1};

class Tensor {
public:
  Tensor() = default;
  explicit Tensor(const std::vector<std::size_t> &shape) : shape_(shape) {
    std::size_t count = 1;
    for (std::size_t size : shape)
      count *= size;
    memory = std::make_shared<std::vector<int>>(count, 0x5EED);
    for (std::size_t i = 0; i < count; ++i)
      at.push_back(i);
  }
  std::size_t rank() const { return shape_.size(); }
  std::size_t dim(unsigned i) const { return shape_.at(i); }
  Tensor flatten() const { return part(0, at.size(), {at.size()}); }
  Tensor slice(std::size_t begin, std::size_t end) const {
    if (rank() != 1 || begin > end || end > at.size())
      throw std::out_of_range("slice");
    return part(begin, end, {end - begin});
  }
  Tensor operator[](std::size_t i) const {
    if (i >= shape_.at(0))
      throw std::out_of_range("index");
    const std::size_t size = at.size() / shape_[0];
    return part(i * size, (i + 1) * size, {shape_.begin() + 1, shape_.end()});
  }

  std::shared_ptr<std::vector<int>> memory;
  std::vector<std::size_t> at; // places in the memory

private:
  Tensor part(std::size_t begin, std::size_t end, std::vector<std::size_t> shape) const {
    Tensor result = *this;
    result.at.assign(at.begin() + begin, at.begin() + end);
    result.shape_ = shape;
    return result;
  }
  std::vector<std::size_t> shape_;
};

struct ComputeSet {
  unsigned id;
};
struct FieldRef {
  unsigned vertex;
  std::string name;
};
struct VertexRef {
  unsigned id;
  FieldRef operator[](const std::string &name) const { return {id, name}; }
};

struct Target {
  unsigned tiles, threads;
  unsigned getNumTiles() const { return tiles; }
  unsigned getNumWorkerContexts() const { return threads; }
};

class Graph {
public:
  struct Added {
    std::string codelet;
    std::map<std::string, Tensor> fields;
    unsigned tile = ~0u;
  };
  explicit Graph(const Target &target) : target(target) {}
  const Target &getTarget() const { return target; }
  Tensor addVariable(const Type &, const std::vector<std::size_t> &shape, const std::string &) {
    return Tensor(shape);
  }
  ComputeSet addComputeSet(const std::string &) { return {0}; }
  VertexRef addVertex(ComputeSet, const std::string &codelet) {
    vertices.emplace_back();
    vertices.back().codelet = codelet;
    return {unsigned(vertices.size() - 1)};
  }
  void connect(const FieldRef &field, const Tensor &tensor) {
    if (!vertices.at(field.vertex).fields.emplace(field.name, tensor).second)
      throw std::logic_error(field.name + " is connected twice");
  }
  void setTileMapping(const VertexRef &vertex, unsigned tile) { vertices.at(vertex.id).tile = tile; }
  void setTileMapping(const Tensor &tensor, unsigned tile) {
    for (std::size_t i : tensor.at)
      if (!tiles.emplace(i, tile).second)
        throw std::logic_error("an entry is mapped twice");
  }
  void setPerfEstimate(const VertexRef &, std::uint64_t) {}

  Target target;
  std::vector<Added> vertices;
  std::map<std::size_t, unsigned> tiles; // of the entries of the one variable that an operation here makes
};

} // namespace poplar
