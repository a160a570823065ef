// A stub of Poplar's vertices: fields are lists of places in the memory of tests/poplar/include/poplar/Graph.hpp.
#pragma once
#include <cstddef>
#include <vector>

namespace poplar {

class Vertex {};

template <typename T> struct Vector {
  using Entry = T;
};

template <typename V, typename Entry> class Field {
public:
  Entry &operator[](std::size_t i) { return *places.at(i); }
  std::size_t size() const { return places.size(); }
  std::vector<typename V::Entry *> places;
};

template <typename V> class Input : public Field<V, const typename V::Entry> {};
template <typename V> class Output : public Field<V, typename V::Entry> {};

} // namespace poplar
